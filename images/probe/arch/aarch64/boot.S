/* Entry of all vCPUs, at EL2 or EL1 with the MMU off, into C at EL1 with the MMU on. Register names and bits: Arm ARM
 * (DDI 0487), D19 "AArch64 System register descriptions". */
#include "arm.h"

#define SPSR_EL1H_MASKED 0x3c5
#define HCR_RW (1 << 31)
#define CNTHCTL_NO_TRAPS 3
#define ICC_SRE_ALL 0xf
#define CPTR_EL2_RES1 0x32ff            /* nothing traps: TFP, TZ and TSM are clear */
#define CPACR_NO_TRAPS 0x330000         /* FPEN and, where it is there, ZEN */
#define SCTLR_EL1_OFF 0x30d00800        /* RES1 bits of Armv8.0 */
#define SCTLR_EL1_ON 0x30d0181d         /* and M, C, SA, SA0, I */
/* 39 bits of address, 4 KiB granule, write-back inner shareable walks; no walks for the upper half (EPD1) */
#define TCR_EL1_BITS (25 | 25 << 16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 2 << 30)

	.text
	.globl arm_entry, arm_secondary_entry
arm_entry:                              /* the boot vCPU */
	adr x0, bss_start_at
	ldp x1, x2, [x0]
1:	stp xzr, xzr, [x1], #16
	cmp x1, x2
	b.lo 1b
	mrs x3, CurrentEL
	lsr x3, x3, #2
	ldr x0, =arm_boot_el
	str x3, [x0]
	bl drop_to_el1
	bl mmu_on
	ldr x0, =stacks + STACK_BYTES
	bl stacks_on
	ldr x0, =device_tree
	mov x29, xzr
	bl arm_boot

arm_secondary_entry:                    /* x0: end of the vCPU's main stack, the context id of PSCI's CPU_ON */
	mov x20, x0
	bl drop_to_el1
	bl mmu_on
	mov x0, x20
	bl stacks_on
	mov x29, xzr
	bl arm_application

/* x0: end of the main stack; the handlers' stack lies behind it. Ends in EL1t: SP_EL0 is the stack of everything but
 * handlers, so that canaries may put any value there. */
stacks_on:
	msr SPSel, #1
	add x1, x0, #STACK_BYTES
	mov sp, x1
	msr SPSel, #0
	mov sp, x0
	ldr x1, =vectors
	msr VBAR_EL1, x1
	isb
	msr daifclr, #DAIF_SERROR_FIQ
	ret

drop_to_el1:
	mrs x1, CurrentEL
	cmp x1, #2 << 2
	b.ne 1f
	mov x1, #HCR_RW
	msr HCR_EL2, x1
	mov x1, #CNTHCTL_NO_TRAPS
	msr CNTHCTL_EL2, x1
	msr CNTVOFF_EL2, xzr
	msr HSTR_EL2, xzr
	msr VTTBR_EL2, xzr
	mov x1, #CPTR_EL2_RES1
	msr CPTR_EL2, x1
	mrs x1, MIDR_EL1
	msr VPIDR_EL2, x1
	mrs x1, MPIDR_EL1
	msr VMPIDR_EL2, x1
	mrs x1, MDCR_EL2
	and x1, x1, #0x1f               /* no traps; HPMN as it resets: all event counters are EL1's */
	msr MDCR_EL2, x1
	mov x1, #ICC_SRE_ALL
	msr ICC_SRE_EL2, x1
	isb
	msr ICH_HCR_EL2, xzr
	ldr x1, =monitor_vectors        /* monitor.S stays behind */
	msr VBAR_EL2, x1
	msr TPIDR_EL2, xzr
	ldr x1, =SCTLR_EL1_OFF
	msr SCTLR_EL1, x1
	mov x1, #SPSR_EL1H_MASKED
	msr SPSR_EL2, x1
	msr ELR_EL2, x30
	eret
1:	msr daifset, #0xf
	ret

mmu_on:
	ldr x1, =CPACR_NO_TRAPS
	msr CPACR_EL1, x1
	ldr x1, =MAIR_VALUE
	msr MAIR_EL1, x1
	ldr x1, =TCR_EL1_BITS
	mrs x2, ID_AA64MMFR0_EL1
	bfi x1, x2, #32, #3             /* IPS: all physical addresses that there are */
	msr TCR_EL1, x1
	ldr x1, =page_l1
	msr TTBR0_EL1, x1
	msr TTBR1_EL1, xzr
	dsb ish
	tlbi vmalle1
	ic iallu
	dsb ish
	isb
	ldr x1, =SCTLR_EL1_ON
	msr SCTLR_EL1, x1
	isb
	ret

	.align 4
bss_start_at:
	.quad bss_start, bss_end
	.ltorg

	.data
	.align 12
	.globl page_l1, arm_boot_el
page_l1:                                /* 1 GiB blocks: devices, then the GiB that the image is in; paging.c adds the rest */
	.quad 0x00000000 | BLOCK_DEVICE
	.quad 0x40000000 | BLOCK_NORMAL
	.fill 510, 8, 0
arm_boot_el:
	.quad 0
	.section .note.GNU-stack, "", @progbits
