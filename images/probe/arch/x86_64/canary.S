/* Load every register that can be loaded, and spin with the values in them; nothing here reads or writes memory meanwhile.
 * An interrupt handler ends it: it copies the general registers from its frame and returns to canary_return. */
#include "canary.h"

	.text
	.globl canary_enter, canary_spin, canary_return, canary_store
canary_enter:                           /* rdi: struct live, interrupts off */
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, CANARY_SAVED_RSP(%rdi)
	fxrstor64 CANARY_FX(%rdi)
	cmpl $0, CANARY_HAS_AVX(%rdi)
	je 1f
	.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	vmovdqu CANARY_YMM + 32 * \n(%rdi), %ymm\n
	.endr
1:	mov CANARY_GPR + 0(%rdi), %rax
	mov CANARY_GPR + 8(%rdi), %rcx
	mov CANARY_GPR + 16(%rdi), %rdx
	mov CANARY_GPR + 24(%rdi), %rbx
	mov CANARY_GPR + 32(%rdi), %rsp
	mov CANARY_GPR + 40(%rdi), %rbp
	mov CANARY_GPR + 48(%rdi), %rsi
	mov CANARY_GPR + 64(%rdi), %r8
	mov CANARY_GPR + 72(%rdi), %r9
	mov CANARY_GPR + 80(%rdi), %r10
	mov CANARY_GPR + 88(%rdi), %r11
	mov CANARY_GPR + 96(%rdi), %r12
	mov CANARY_GPR + 104(%rdi), %r13
	mov CANARY_GPR + 112(%rdi), %r14
	mov CANARY_GPR + 120(%rdi), %r15
	mov CANARY_GPR + 56(%rdi), %rdi
	sti
canary_spin:
	jmp canary_spin

canary_return:                          /* rsp is what canary_enter saved */
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret

canary_store:                           /* rdi: struct live */
	fxsave64 CANARY_FX(%rdi)
	cmpl $0, CANARY_HAS_AVX(%rdi)
	je 1f
	.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	vmovdqu %ymm\n, CANARY_YMM + 32 * \n(%rdi)
	.endr
1:	ret
	.section .note.GNU-stack, "", @progbits
