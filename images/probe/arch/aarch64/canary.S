/* Load every register that can be loaded, and spin with the values in them; nothing here reads or writes memory meanwhile.
 * An interrupt handler ends it: it copies the general registers from its frame and returns to canary_return. */
#include "arm.h"

	.arch armv8-a+simd
	.text
	.globl canary_enter, canary_spin, canary_return, canary_store
canary_enter:                           /* x0: struct live, interrupts off */
	stp x29, x30, [sp, #-96]!
	stp x19, x20, [sp, #16]
	stp x21, x22, [sp, #32]
	stp x23, x24, [sp, #48]
	stp x25, x26, [sp, #64]
	stp x27, x28, [sp, #80]
	mov x1, sp
	str x1, [x0, #CANARY_SAVED_SP]
	ldp x1, x2, [x0, #CANARY_FPCR]
	msr FPCR, x1
	msr FPSR, x2
	ldr x1, [x0, #CANARY_NZCV]
	msr NZCV, x1
	add x1, x0, #CANARY_SIMD
	ldp q0, q1, [x1, #0]
	ldp q2, q3, [x1, #32]
	ldp q4, q5, [x1, #64]
	ldp q6, q7, [x1, #96]
	ldp q8, q9, [x1, #128]
	ldp q10, q11, [x1, #160]
	ldp q12, q13, [x1, #192]
	ldp q14, q15, [x1, #224]
	ldp q16, q17, [x1, #256]
	ldp q18, q19, [x1, #288]
	ldp q20, q21, [x1, #320]
	ldp q22, q23, [x1, #352]
	ldp q24, q25, [x1, #384]
	ldp q26, q27, [x1, #416]
	ldp q28, q29, [x1, #448]
	ldp q30, q31, [x1, #480]
	ldr x1, [x0, #CANARY_GPR + 248]
	mov sp, x1
	ldp x2, x3, [x0, #CANARY_GPR + 16]
	ldp x4, x5, [x0, #CANARY_GPR + 32]
	ldp x6, x7, [x0, #CANARY_GPR + 48]
	ldp x8, x9, [x0, #CANARY_GPR + 64]
	ldp x10, x11, [x0, #CANARY_GPR + 80]
	ldp x12, x13, [x0, #CANARY_GPR + 96]
	ldp x14, x15, [x0, #CANARY_GPR + 112]
	ldp x16, x17, [x0, #CANARY_GPR + 128]
	ldp x18, x19, [x0, #CANARY_GPR + 144]
	ldp x20, x21, [x0, #CANARY_GPR + 160]
	ldp x22, x23, [x0, #CANARY_GPR + 176]
	ldp x24, x25, [x0, #CANARY_GPR + 192]
	ldp x26, x27, [x0, #CANARY_GPR + 208]
	ldp x28, x29, [x0, #CANARY_GPR + 224]
	ldr x30, [x0, #CANARY_GPR + 240]
	ldp x0, x1, [x0, #CANARY_GPR]
	msr daifclr, #DAIF_IRQ
canary_spin:
	b canary_spin

canary_return:                          /* sp is what canary_enter saved */
	ldp x19, x20, [sp, #16]
	ldp x21, x22, [sp, #32]
	ldp x23, x24, [sp, #48]
	ldp x25, x26, [sp, #64]
	ldp x27, x28, [sp, #80]
	ldp x29, x30, [sp], #96
	ret

canary_store:                           /* x0: struct live */
	mrs x1, FPCR
	mrs x2, FPSR
	stp x1, x2, [x0, #CANARY_FPCR]
	add x1, x0, #CANARY_SIMD
	stp q0, q1, [x1, #0]
	stp q2, q3, [x1, #32]
	stp q4, q5, [x1, #64]
	stp q6, q7, [x1, #96]
	stp q8, q9, [x1, #128]
	stp q10, q11, [x1, #160]
	stp q12, q13, [x1, #192]
	stp q14, q15, [x1, #224]
	stp q16, q17, [x1, #256]
	stp q18, q19, [x1, #288]
	stp q20, q21, [x1, #320]
	stp q22, q23, [x1, #352]
	stp q24, q25, [x1, #384]
	stp q26, q27, [x1, #416]
	stp q28, q29, [x1, #448]
	stp q30, q31, [x1, #480]
	ret
	.section .note.GNU-stack, "", @progbits
