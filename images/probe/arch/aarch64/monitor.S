/* The monitor at EL2. It shares the probe's translation tables and has no memory map of its own (MMU off at EL2), so all its
 * accesses are aligned. TPIDR_EL2 is 0 while the probe runs, else the address of struct monitored. */
#include "monitor.h"

#define HCR_HOST (1 << 31)              /* RW: EL1 is AArch64 */
#define HCR_GUEST 0x80000018   /* and IMO, FMO: interrupts come to EL2, EL1 has the virtual ones */
#define ICH_HCR_EN 1
#define GUEST_FRAME 176

	.text
	.macro hang
	.align 7
	b .
	.endm
	.macro leave why
	.align 7
	msr TPIDRRO_EL0, x30            /* nobody runs at EL0; x30 is wanted here */
	mov x30, #\why
	b monitor_entered
	.endm

	.align 11
	.globl monitor_vectors, monitor_run, monitor_call, monitor_guest_vectors
monitor_vectors:
	.rept 8
	hang                            /* from EL2 itself */
	.endr
	leave MONITOR_CALLED            /* from EL1: synchronous, IRQ, FIQ, SError */
	leave MONITOR_INTERRUPTED
	leave MONITOR_INTERRUPTED
	hang
	.rept 4
	hang                            /* AArch32 */
	.endr

	.macro save base
	stp x18, x19, [\base, #CONTEXT_X + 144]
	stp x20, x21, [\base, #CONTEXT_X + 160]
	stp x22, x23, [\base, #CONTEXT_X + 176]
	stp x24, x25, [\base, #CONTEXT_X + 192]
	stp x26, x27, [\base, #CONTEXT_X + 208]
	stp x28, x29, [\base, #CONTEXT_X + 224]
	mrs x2, SP_EL0
	mrs x3, SP_EL1
	stp x2, x3, [\base, #CONTEXT_SP_EL0]
	mrs x2, ELR_EL2
	mrs x3, SPSR_EL2
	stp x2, x3, [\base, #CONTEXT_PC]
	mrs x2, VBAR_EL1
	mrs x3, ELR_EL1
	stp x2, x3, [\base, #CONTEXT_VBAR]
	mrs x2, SPSR_EL1
	mrs x3, ICH_VMCR_EL2
	stp x2, x3, [\base, #CONTEXT_SPSR_EL1]
	mrs x2, ICH_AP1R0_EL2
	str x2, [\base, #CONTEXT_AP1R0]
	.endm

	.macro load base
	ldp x18, x19, [\base, #CONTEXT_X + 144]
	ldp x20, x21, [\base, #CONTEXT_X + 160]
	ldp x22, x23, [\base, #CONTEXT_X + 176]
	ldp x24, x25, [\base, #CONTEXT_X + 192]
	ldp x26, x27, [\base, #CONTEXT_X + 208]
	ldp x28, x29, [\base, #CONTEXT_X + 224]
	ldp x2, x3, [\base, #CONTEXT_SP_EL0]
	msr SP_EL0, x2
	msr SP_EL1, x3
	ldp x2, x3, [\base, #CONTEXT_PC]
	msr ELR_EL2, x2
	msr SPSR_EL2, x3
	ldp x2, x3, [\base, #CONTEXT_VBAR]
	msr VBAR_EL1, x2
	msr ELR_EL1, x3
	ldp x2, x3, [\base, #CONTEXT_SPSR_EL1]
	msr SPSR_EL1, x2
	msr ICH_VMCR_EL2, x3
	ldr x2, [\base, #CONTEXT_AP1R0]
	msr ICH_AP1R0_EL2, x2
	.endm

/* x30: why; the caller's x30 is in TPIDRRO_EL0. The probe calls with x0 = struct monitored. */
monitor_entered:
	msr TPIDR_EL0, x29
	mrs x29, TPIDR_EL2
	cbnz x29, guest_left
	mrs x29, TPIDR_EL0
	mrs x30, TPIDRRO_EL0
	add x1, x0, #MONITOR_HOST
	str x30, [x1, #CONTEXT_X + 240]
	save x1
	msr TPIDR_EL2, x0
	load x0
	ldr x1, =HCR_GUEST
	msr HCR_EL2, x1
	mov x1, #ICH_HCR_EN
	msr ICH_HCR_EL2, x1
	isb
	mov x30, x0
	ldp x0, x1, [x30, #0]
	ldp x2, x3, [x30, #16]
	ldp x4, x5, [x30, #32]
	ldp x6, x7, [x30, #48]
	ldp x8, x9, [x30, #64]
	ldp x10, x11, [x30, #80]
	ldp x12, x13, [x30, #96]
	ldp x14, x15, [x30, #112]
	ldp x16, x17, [x30, #128]
	ldr x30, [x30, #240]
	eret

guest_left:                             /* x29: struct monitored; the guest's is in TPIDR_EL0 */
	stp x0, x1, [x29, #0]
	stp x2, x3, [x29, #16]
	stp x4, x5, [x29, #32]
	stp x6, x7, [x29, #48]
	stp x8, x9, [x29, #64]
	stp x10, x11, [x29, #80]
	stp x12, x13, [x29, #96]
	stp x14, x15, [x29, #112]
	stp x16, x17, [x29, #128]
	mov x1, x29
	mov x0, x30
	mrs x29, TPIDR_EL0
	mrs x30, TPIDRRO_EL0
	str x30, [x1, #240]
	save x1
	msr ICH_HCR_EL2, xzr
	msr TPIDR_EL2, xzr
	mov x2, #HCR_HOST
	msr HCR_EL2, x2
	isb
	add x1, x1, #MONITOR_HOST
	load x1
	ldr x30, [x1, #CONTEXT_X + 240]
	eret

	.ltorg
monitor_run:
	hvc #0
	ret
monitor_call:
	hvc #0
	ret

/* The guest's own vectors, at EL1h. Whatever is not an interrupt ends in a call for ever: the host sees that it makes no way. */
	.macro guest_stuck
	.align 7
1:	hvc #1
	b 1b
	.endm
	.macro guest_interrupt
	.align 7
	sub sp, sp, #GUEST_FRAME
	stp x0, x1, [sp, #0]
	stp x2, x3, [sp, #16]
	b guest_taken
	.endm
	.align 11
monitor_guest_vectors:
	.rept 4
	guest_stuck
	.endr
	guest_stuck
	guest_interrupt
	guest_stuck
	guest_stuck
	.rept 8
	guest_stuck
	.endr
guest_taken:
	stp x4, x5, [sp, #32]
	stp x6, x7, [sp, #48]
	stp x8, x9, [sp, #64]
	stp x10, x11, [sp, #80]
	stp x12, x13, [sp, #96]
	stp x14, x15, [sp, #112]
	stp x16, x17, [sp, #128]
	stp x18, x29, [sp, #144]
	mrs x0, ELR_EL1
	stp x30, x0, [sp, #160]
	bl vpe_interrupt
	ldp x30, x0, [sp, #160]
	msr ELR_EL1, x0
	ldp x18, x29, [sp, #144]
	ldp x16, x17, [sp, #128]
	ldp x14, x15, [sp, #112]
	ldp x12, x13, [sp, #96]
	ldp x10, x11, [sp, #80]
	ldp x8, x9, [sp, #64]
	ldp x6, x7, [sp, #48]
	ldp x4, x5, [sp, #32]
	ldp x2, x3, [sp, #16]
	ldp x0, x1, [sp, #0]
	add sp, sp, #GUEST_FRAME
	eret
	.section .note.GNU-stack, "", @progbits
