/* From the boot loader to C in long mode.
 *
 * Two ways in, one image: a Multiboot 1 header with address fields (Multiboot specification 0.6.96, 3.1) and a PVH note
 * (Xen "x86/HVM direct boot ABI"). Both enter here in 32-bit protected mode with paging off.
 *
 * Everything is identity-mapped below 4 GiB and is NX except .text. That is not only hygiene: an emulator that caches
 * translated code has to watch stores to executable pages, so stores to data mapped executable are several times
 * slower. .text and .rodata are read-only. Page 0 is absent so that null pointers fault.
 */
        .set    MULTIBOOT_MAGIC, 0x1BADB002
        .set    MULTIBOOT_FLAGS, 0x00010000     /* address fields valid: a loader need not read ELF */
        .set    PVH_MAGIC, 0x336EC578           /* what C is told when we came in by the PVH note */

        .set    PRESENT, 1
        .set    WRITABLE, 2
        .set    LARGE, 0x80
        .set    NX_HIGH, 0x80000000             /* bit 63, in the upper half of an entry */

        .section .boot, "ax"
        .balign 4
multiboot:
        .long   MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)
        .long   multiboot, image_begin, image_data_end, image_end, multiboot_entry

        .section .note.Xen, "a", @note
        .balign 4
        .long   4, 8, 18                        /* name size, value size, XEN_ELFNOTE_PHYS32_ENTRY */
        .asciz  "Xen"
        .quad   pvh_entry

        .section .boot
        .code32
        .globl  multiboot_entry, pvh_entry
pvh_entry:
        movl    $PVH_MAGIC, %eax
multiboot_entry:
        cli
        cld
        movl    $stack_top, %esp
        movl    %eax, boot_magic
        movl    %ebx, boot_pointer

        /* The top: PML4 -> PDPT -> PD of the first GiB -> PT of the first 2 MiB. */
        movl    $(page_pdpt + PRESENT + WRITABLE), page_pml4
        movl    $(page_pd + PRESENT + WRITABLE), page_pdpt
        movl    $(page_pt + PRESENT + WRITABLE), page_pd

        /* First 2 MiB by 4 KiB pages, page 0 left out: data first, then the image's own pages get their rights. */
        movl    $(0x1000 + PRESENT + WRITABLE), %eax
        movl    $(page_pt + 8), %edi
1:      movl    %eax, (%edi)
        movl    $NX_HIGH, 4(%edi)
        addl    $0x1000, %eax
        addl    $8, %edi
        cmpl    $(page_pt + 4096), %edi
        jb      1b
        movl    $image_begin, %eax
2:      movl    %eax, %edi
        shrl    $9, %edi                        /* page number times 8 */
        andl    $~WRITABLE, page_pt(%edi)
        cmpl    $image_text_end, %eax
        jae     3f
        movl    $0, page_pt + 4(%edi)
3:      addl    $0x1000, %eax
        cmpl    $image_rodata_end, %eax
        jb      2b

        /* The rest of the first GiB by 2 MiB pages. */
        movl    $(0x200000 + PRESENT + WRITABLE + LARGE), %eax
        movl    $(page_pd + 8), %edi
4:      movl    %eax, (%edi)
        movl    $NX_HIGH, 4(%edi)
        addl    $0x200000, %eax
        addl    $8, %edi
        cmpl    $(page_pd + 4096), %edi
        jb      4b

        /* CR4: PAE, OSFXSR, OSXMMEXCPT. EFER: LME, NXE. CR0: PG, WP, NE, MP, PE, with EM and TS off (SSE works). */
        movl    $0x620, %eax
        movl    %eax, %cr4
        movl    $page_pml4, %eax
        movl    %eax, %cr3
        movl    $0xC0000080, %ecx
        rdmsr
        orl     $0x900, %eax
        wrmsr
        movl    $0x80010023, %eax
        movl    %eax, %cr0
        lgdt    gdt_pointer
        ljmp    $0x08, $long_mode

        .code64
long_mode:
        movl    $0x10, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        xorl    %eax, %eax
        movl    %eax, %fs
        movl    %eax, %gs

        /* The TSS descriptor needs its base in three pieces, which no relocation can express. */
        movl    $tss, %eax
        movw    %ax, gdt_tss + 2
        shrl    $16, %eax
        movb    %al, gdt_tss + 4
        movb    %ah, gdt_tss + 7
        movl    $0x18, %eax
        ltr     %ax

        movl    $stack_top, %esp
        xorl    %ebp, %ebp
        call    guest_start
        ud2

        .section .data
        .balign 8
gdt:    .quad   0
        .quad   0x00AF9B000000FFFF              /* 0x08: 64-bit code */
        .quad   0x00CF93000000FFFF              /* 0x10: data */
gdt_tss:
        .quad   0x0000890000000067, 0           /* 0x18: available 64-bit TSS, limit 0x67 */
gdt_end:
gdt_pointer:
        .word   gdt_end - gdt - 1
        .quad   gdt

        .balign 16
tss:    .long   0
        .quad   0, 0, 0                         /* RSP0-2: there is no user mode */
        .quad   0
        .quad   double_fault_top                /* IST1 */
        .quad   0, 0, 0, 0, 0, 0
        .quad   0
        .word   0, 0x68                         /* no I/O permission map */

        .globl  boot_magic, boot_pointer
boot_magic:
        .long   0
boot_pointer:
        .long   0

        .section .bss
        .balign 4096
        .globl  page_pml4, page_pdpt, page_pd, page_pt
page_pml4:      .skip 4096
page_pdpt:      .skip 4096
page_pd:        .skip 4096
page_pt:        .skip 4096
stack:          .skip 262144
stack_top:      .skip 4096
double_fault_top:

        .section .note.GNU-stack, "", @progbits
