/* The registers that a function keeps for its caller (System V ABI AMD64, 3.2.1), in the order of jmp_buf. */
        .text
        .globl  setjmp, longjmp
setjmp:
        movq    %rbx, (%rdi)
        movq    %rbp, 8(%rdi)
        movq    %r12, 16(%rdi)
        movq    %r13, 24(%rdi)
        movq    %r14, 32(%rdi)
        movq    %r15, 40(%rdi)
        leaq    8(%rsp), %rax                   /* as it is after the return */
        movq    %rax, 48(%rdi)
        movq    (%rsp), %rax
        movq    %rax, 56(%rdi)
        xorl    %eax, %eax
        ret

longjmp:
        movl    %esi, %eax
        cmpl    $1, %eax
        adcl    $0, %eax                        /* 0 becomes 1 */
        movq    (%rdi), %rbx
        movq    8(%rdi), %rbp
        movq    16(%rdi), %r12
        movq    24(%rdi), %r13
        movq    32(%rdi), %r14
        movq    40(%rdi), %r15
        movq    48(%rdi), %rsp
        jmp     *56(%rdi)

        .section .note.GNU-stack, "", @progbits
