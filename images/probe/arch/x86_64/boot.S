/* PVH entry (32-bit, paging off, ebx = hvm_start_info) and the trampoline of the other vCPUs, both into 64-bit mode. */
#define CR0_PE_MP_NE_WP_PG 0x80010023
#define CR4_PAE 0x20
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define TRAMPOLINE 0x8000

	.section .note.pvh, "a", @note
	.align 4
	.long 4, 4, 18                  /* XEN_ELFNOTE_PHYS32_ENTRY, xen/include/public/elfnote.h */
	.asciz "Xen"
	.long pvh_entry

	.text
	.code32
	.globl pvh_entry
pvh_entry:
	cli
	cld
	mov $bss_start, %edi
	mov $bss_end, %ecx
	sub %edi, %ecx
	shr $2, %ecx
	xor %eax, %eax
	rep stosl

	/* identity map of the first 4 GiB in 2 MiB pages */
	movl $page_pdpt + 3, page_pml4
	mov $page_pd + 3, %eax
	mov $page_pdpt, %edi
	mov $4, %ecx
1:	mov %eax, (%edi)
	add $4096, %eax
	add $8, %edi
	loop 1b
	mov $0x83, %eax
	mov $page_pd, %edi
	mov $2048, %ecx
2:	mov %eax, (%edi)
	add $0x200000, %eax
	add $8, %edi
	loop 2b

	lgdt boot_gdtr
	call long_mode_on
	ljmp $0x08, $boot64

long_mode_on:
	mov $CR4_PAE, %eax
	mov %eax, %cr4
	mov $page_pml4, %eax
	mov %eax, %cr3
	mov $MSR_EFER, %ecx
	rdmsr
	or $EFER_LME, %eax
	wrmsr
	mov $CR0_PE_MP_NE_WP_PG, %eax
	mov %eax, %cr0
	ret

	.code64
boot64:
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	lea stacks + 8192(%rip), %rsp
	mov %ebx, %edi
	mov %ebp, %esi
	xor %ebp, %ebp
	call x86_boot
	hlt

	/* The other vCPUs, copied to TRAMPOLINE. */
	.code16
	.globl trampoline_start, trampoline_end
trampoline_start:
	cli
	mov %cs, %ax
	mov %ax, %ds
	lgdtl trampoline_gdtr - trampoline_start
	mov $0x11, %eax
	mov %eax, %cr0
	ljmpl $0x20, $(TRAMPOLINE + trampoline32 - trampoline_start)
	.code32
trampoline32:
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $(TRAMPOLINE + trampoline_end - trampoline_start + 256), %esp
	mov $long_mode_on, %eax
	call *%eax
	ljmp $0x08, $application64
trampoline_gdtr:
	.word 39
	.long boot_gdt
trampoline_end:

	.code64
application64:
	mov $1, %eax
	cpuid
	shr $24, %ebx
	mov application_stack(, %rbx, 8), %rsp
	xor %ebp, %ebp
	call x86_application
	hlt

	.data
	.align 8
boot_gdt:
	.quad 0
	.quad 0x00af9b000000ffff        /* 0x08 64-bit code */
	.quad 0x00cf93000000ffff        /* 0x10 data */
	.quad 0
	.quad 0x00cf9b000000ffff        /* 0x20 32-bit code */
	.globl boot_gdtr
boot_gdtr:                              /* eight bytes of base: lgdt takes that many in 64-bit mode (kexec.S) */
	.word 39
	.quad boot_gdt

	.bss
	.align 4096
	.globl page_pml4, page_pdpt, application_stack
page_pml4:
	.skip 4096
page_pdpt:
	.skip 4096
page_pd:
	.skip 4 * 4096
application_stack:
	.skip 256 * 8
	.section .note.GNU-stack, "", @progbits
