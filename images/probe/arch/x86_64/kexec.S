/* A new kernel without a reset: out of long mode, .data as it was when this one began, and in again at the front door. */
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define CR0_PG 0x80000000
#define KEXEC_MAGIC 0x4345584b  /* machine.c */

	.text
	.code64
	.globl kexec_jump
kexec_jump:                             /* rdi: hvm_start_info */
	cli
	mov %edi, %ebx
	lgdt boot_gdtr
	push $0x20
	push $kexec32
	lretq

	.code32
kexec32:
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov %cr0, %eax
	and $~CR0_PG, %eax
	mov %eax, %cr0
	mov $MSR_EFER, %ecx
	rdmsr
	and $~EFER_LME, %eax
	wrmsr
	xor %eax, %eax
	mov %eax, %cr4
	cld
	mov $pristine_data, %esi
	mov $data_start, %edi
	mov $data_end, %ecx
	sub %edi, %ecx
	rep movsb
	mov $KEXEC_MAGIC, %ebp
	jmp pvh_entry
	.section .note.GNU-stack, "", @progbits
