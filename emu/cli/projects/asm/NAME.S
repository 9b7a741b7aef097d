/* A value in persistent memory, and a flag that says that it is there. At every start the flag is checked first: that is
 * the recovery, and what `emu crash` runs on every crash state.
 */
        .intel_syntax noprefix
        .set    VALUE, 0                /* where they are in the NVDIMM: a cache line each, */
        .set    FLAG, 64                /* so that only flushes and fences order them */
        .set    ANSWER, 42
        .set    SIZE, 128
        .set    PMEM_FILE_CREATE, 1

        .text
        .globl  main
main:   push    rbx
        lea     rdi, path[rip]          /* rbx = pmem_map_file(path, SIZE, PMEM_FILE_CREATE, 0600, NULL, NULL) */
        mov     esi, SIZE
        mov     edx, PMEM_FILE_CREATE
        mov     ecx, 0600
        xor     r8d, r8d
        xor     r9d, r9d
        call    pmem_map_file
        mov     rbx, rax
        test    rbx, rbx
        mov     eax, 2
        je      end

        cmp     qword ptr [rbx + FLAG], 0
        je      work
        xor     eax, eax
        cmp     qword ptr [rbx + VALUE], ANSWER
        setne   al                      /* the flag is set and the value is not there: status 3 */
end:    pop     rbx
        ret

work:   mov     qword ptr [rbx + VALUE], ANSWER
        /* THE BUG: nothing makes the value durable before the flag names it. The fix is these two lines:
         * clwb    [rbx + VALUE]
         * sfence
         */
        mov     qword ptr [rbx + FLAG], 1
        clwb    [rbx + FLAG]
        sfence
        xor     eax, eax
        jmp     end

        .section .rodata
path:   .asciz  "/pmem/NAME"

        .section .note.GNU-stack, "", @progbits
