/* Runs a table of cases, each one instruction with its whole input state, and stores its whole output state.
 *
 * The same bytes run at the same addresses, at privilege level 3 and with Linux's selectors, in a process on the host
 * CPU (native.c calls `run` and turns signals into records) and as a flat guest (entered at `boot`; the IDT's handlers
 * write the records). Addresses and the layout of a record are those of cpu_machine.py.
 */
        .intel_syntax noprefix
        .set    BASE, 0x10000000
        .set    TABLE, 0x11000000
        .set    ARENA, 0x12000000
        .set    RECORD, 2048
        .set    FLAGS, 128              /* in both halves of a record, after the 16 general registers */
        .set    CODE, 136                /* input: far pointer to the case's code; output: where it faulted */
        .set    VECTOR, 144
        .set    ERROR, 152
        .set    FX, 192
        .set    MEMORY, 704
        .set    OUT, 1024
        .set    NONE, -1

        .macro  general do, at
        \do     rax, \at + 0
        \do     rcx, \at + 8
        \do     rdx, \at + 16
        \do     rsp, \at + 32
        \do     rbp, \at + 40
        \do     rsi, \at + 48
        \do     rdi, \at + 56
        \do     r8, \at + 64
        \do     r9, \at + 72
        \do     r10, \at + 80
        \do     r11, \at + 88
        \do     r12, \at + 96
        \do     r13, \at + 104
        \do     r14, \at + 112
        \do     r15, \at + 120
        .endm
        .macro  load register, at
        mov     \register, [rbx + \at]
        .endm
        .macro  store register, at
        mov     [rbx + \at], \register
        .endm

        .section .harness, "awx"
count:          .quad 0                 /* cases to run; written from outside */
ending:         .quad 0                 /* 0: return; 1: halt; 2: write the records to the debug console, then halt */
                .quad run, caught, boot
current:        .quad TABLE
host_rsp:       .quad user_stack
saved_rbx:      .quad 0
target:         .quad 0
                .balign 64
multiboot:      .long 0x1BADB002, 0x10000, -(0x1BADB002 + 0x10000)
                .long multiboot, BASE, 0, 0, boot

        .code64
run:    push    rbx
        push    rbp
        push    r12
        push    r13
        push    r14
        push    r15
        mov     host_rsp[rip], rsp
        mov     eax, 0x2b
        mov     ds, eax
        mov     es, eax
next:   mov     rsp, host_rsp[rip]
        dec     qword ptr count[rip]
        js      done
        mov     rbx, current[rip]
        lea     rsi, [rbx + MEMORY]
        mov     edi, ARENA
        mov     ecx, 32
        rep movsq
        mov     rax, [rbx + CODE]
        mov     target[rip], rax
        fxrstor64 [rbx + FX]
        push    [rbx + FLAGS]
        popfq
        general load, 0
        mov     rbx, [rbx + 24]
        jmp     fword ptr target[rip]

/* A case of 64-bit code ends with a jump here, one of 32-bit code with a far jump. */
finish: mov     saved_rbx[rip], rbx
        mov     rbx, current[rip]
        general store, OUT
        mov     rax, saved_rbx[rip]
        mov     [rbx + OUT + 24], rax
        mov     rsp, host_rsp[rip]
        pushfq
        pop     [rbx + OUT + FLAGS]
        push    2
        popfq
        mov     qword ptr [rbx + OUT + VECTOR], NONE
        fxsave64 [rbx + OUT + FX]
caught: mov     rbx, current[rip]
        mov     esi, ARENA
        lea     rdi, [rbx + OUT + MEMORY]
        mov     ecx, 32
        rep movsq
        add     qword ptr current[rip], RECORD
        jmp     next

done:   pop     r15
        pop     r14
        pop     r13
        pop     r12
        pop     rbp
        pop     rbx
        fninit
        cmp     qword ptr ending[rip], 0
        jne     1f
        ret
1:      int     0x80                    /* to `end` */

/* The guest's side. Every exception comes here with vector and error code on the stack of privilege level 0. */
trap:   mov     saved_rbx[rip], rbx
        mov     rbx, current[rip]
        general store, OUT
        mov     rax, saved_rbx[rip]
        mov     [rbx + OUT + 24], rax
        pop     [rbx + OUT + VECTOR]
        pop     [rbx + OUT + ERROR]
        pop     [rbx + OUT + CODE]
        pop     rax                     /* CS */
        pop     [rbx + OUT + FLAGS]
        pop     [rbx + OUT + 32]
        fxsave64 [rbx + OUT + FX]
        push    0x2b
        push    host_rsp[rip]
        push    0x202
        push    0x33
        lea     rax, caught[rip]
        push    rax
        iretq

end:    cmp     qword ptr ending[rip], 2
        jne     1f
        mov     esi, TABLE
        mov     rcx, current[rip]
        sub     rcx, rsi
        mov     edx, 0xe9
        rep outsb
        mov     edx, 0xf4               /* isa-debug-exit */
        out     dx, eax
1:      hlt

        .set    vector, 0
        .rept   32
        .balign 16
        .if     vector == 0
vectors:
        .endif
        .if     (1 << vector) & 0x227d00 == 0   /* 8, 10 to 14, 17 and 21 push an error code */
        push    0
        .endif
        push    vector
        jmp     trap
        .set    vector, vector + 1
        .endr

        .code32
boot:   mov     eax, offset pml4
        mov     cr3, eax
        mov     eax, 0x40620            /* CR4: PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
        mov     cr4, eax
        xor     ecx, ecx                /* XCR0: x87, SSE */
        xor     edx, edx
        mov     eax, 3
        xsetbv
        mov     ecx, 0xc0000080         /* EFER: SCE, LME, NXE */
        mov     eax, 0x901
        xor     edx, edx
        wrmsr
        mov     eax, 0x80050033         /* CR0: PG, AM, WP, NE, ET, MP, PE */
        mov     cr0, eax
        lgdt    gdt_pointer
        jmp     0x08:boot64

        .code64
boot64: mov     al, 0xff                /* no interrupts: the PICs are masked */
        out     0x21, al
        out     0xa1, al
        xor     eax, eax
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        lea     rsp, kernel_stack[rip]
        lidt    idt_pointer[rip]
        mov     eax, 0x38
        ltr     ax
        lea     rsi, vectors[rip]       /* the gates: 32 exceptions, then `end` at 0x80 for INT */
        lea     rdi, idt[rip]
        mov     ecx, 32
2:      mov     bh, 0x8e
        cmp     ecx, 32 - 3             /* INT3 and INTO are for everyone */
        je      3f
        cmp     ecx, 32 - 4
        jne     4f
3:      mov     bh, 0xee
4:      call    gate
        add     rsi, 16
        loop    2b
        lea     rsi, end[rip]
        lea     rdi, idt[rip + 0x800]
        mov     bh, 0xee
        call    gate
        push    0x2b
        push    host_rsp[rip]
        push    0x202
        push    0x33
        lea     rax, run[rip]
        push    rax
        iretq

gate:   mov     rax, rsi                /* at RDI, to RSI, attributes in BH */
        mov     [rdi], ax
        mov     word ptr [rdi + 2], 8
        mov     byte ptr [rdi + 4], 0
        mov     [rdi + 5], bh
        shr     rax, 16
        mov     [rdi + 6], rax
        add     rdi, 16
        ret

        .balign 16
gdt:    .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0
        .quad   0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff
        .word   103, tss - BASE         /* the base's parts; the harness is below BASE + 64 KiB */
        .byte   0, 0x89, 0, BASE >> 24
        .quad   0
gdt_end:
gdt_pointer: .word gdt_end - gdt - 1
        .quad   gdt
idt_pointer: .word 0x80 * 16 + 15
        .quad   idt
        .balign 16
tss:    .long   0
        .quad   kernel_stack
        .fill   92, 1, 0
        .balign 16
idt:    .fill   0x81 * 16, 1, 0
        .fill   4096, 1, 0
kernel_stack:
        .fill   4096, 1, 0
user_stack:

        .balign 4096
pml4:   .quad   pdpt + 7
        .fill   511, 8, 0
pdpt:   .quad   pd + 7
        .fill   511, 8, 0
        .set    page, 0
pd:     .rept   512                     /* 2 MiB pages, from BASE on; not executable from TABLE on */
        .if     page < BASE
        .quad   0
        .elseif page < TABLE
        .quad   page + 0x87
        .else
        .quad   page + 0x87 + (1 << 63)
        .endif
        .set    page, page + 0x200000
        .endr
