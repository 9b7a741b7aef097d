# A whole guest: leaves "hello" in the NVDIMM, says "hi" on the serial port and stops.
        .intel_syntax noprefix
        mov     rbx, 0x100000000        # the first NVDIMM
        mov     rax, 0x6f6c6c6568       # "hello"
        mov     [rbx], rax              # into the CPU's cache ...
        clwb    [rbx]                   # ... on its way to the medium ...
        sfence                          # ... and there
        mov     dx, 0x3f8
        lea     rsi, message[rip]
next:   lodsb
        out     dx, al
        cmp     al, 10
        jne     next
        hlt                             # interrupts are off: the end
message: .ascii  "hi\n"
