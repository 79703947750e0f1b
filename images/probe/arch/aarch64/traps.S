/* All general registers onto the handlers' stack, then trap(struct frame *). Code of the probe runs in EL1t, so its SP is
 * never used here. Exceptions out of a handler (EL1h) are faults of the probe; what is left of the handlers' stack is
 * not trusted then, it begins anew. */
#include "arm.h"

	.macro entry why
	.align 7
	sub sp, sp, #FRAME_BYTES
	stp x0, x1, [sp]
	mov x0, #\why
	b trap_common
	.endm

	.macro entry_from_handler why
	.align 7
	mrs x0, MPIDR_EL1               /* Aff0 counts the vCPUs: QEMU's virt has 16 of them in a cluster */
	and x0, x0, #0xff
	ldr x1, =stacks + 2 * STACK_BYTES
	add x0, x1, x0, lsl #(STACK_SHIFT + 1)
	mov sp, x0
	sub sp, sp, #FRAME_BYTES
	mov x0, #\why
	b trap_common
	.endm

	.text
	.align 11
	.globl vectors
vectors:
	entry 0         /* EL1t: synchronous, IRQ, FIQ, SError */
	entry 1
	entry 2
	entry 3
	entry_from_handler 4            /* EL1h */
	entry_from_handler 5
	entry_from_handler 6
	entry_from_handler 7
	entry 8         /* EL0, which nothing here runs at */
	entry 9
	entry 10
	entry 11
	entry 12
	entry 13
	entry 14
	entry 15

trap_common:
	stp x2, x3, [sp, #16]
	stp x4, x5, [sp, #32]
	stp x6, x7, [sp, #48]
	stp x8, x9, [sp, #64]
	stp x10, x11, [sp, #80]
	stp x12, x13, [sp, #96]
	stp x14, x15, [sp, #112]
	stp x16, x17, [sp, #128]
	stp x18, x19, [sp, #144]
	stp x20, x21, [sp, #160]
	stp x22, x23, [sp, #176]
	stp x24, x25, [sp, #192]
	stp x26, x27, [sp, #208]
	stp x28, x29, [sp, #224]
	mrs x1, SP_EL0
	stp x30, x1, [sp, #240]
	mrs x1, ELR_EL1
	mrs x2, SPSR_EL1
	stp x1, x2, [sp, #FRAME_ELR]
	mrs x1, ESR_EL1
	mrs x2, FAR_EL1
	stp x1, x2, [sp, #272]
	str x0, [sp, #288]
	mov x0, sp
	mov x29, xzr
	bl trap
	ldp x1, x2, [sp, #FRAME_ELR]
	msr ELR_EL1, x1
	msr SPSR_EL1, x2
	ldp x30, x1, [sp, #240]
	msr SP_EL0, x1
	ldp x2, x3, [sp, #16]
	ldp x4, x5, [sp, #32]
	ldp x6, x7, [sp, #48]
	ldp x8, x9, [sp, #64]
	ldp x10, x11, [sp, #80]
	ldp x12, x13, [sp, #96]
	ldp x14, x15, [sp, #112]
	ldp x16, x17, [sp, #128]
	ldp x18, x19, [sp, #144]
	ldp x20, x21, [sp, #160]
	ldp x22, x23, [sp, #176]
	ldp x24, x25, [sp, #192]
	ldp x26, x27, [sp, #208]
	ldp x28, x29, [sp, #224]
	ldp x0, x1, [sp]
	add sp, sp, #FRAME_BYTES
	eret
	.ltorg
	.section .note.GNU-stack, "", @progbits
