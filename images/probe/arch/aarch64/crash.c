/* Crashes on purpose. Arm neither traps divisions by zero nor knows a triple fault; PROTOCOL.md tells what stands in. */
#include "arm.h"

enum { CRASH_UNDEFINED, CRASH_PAGE_FAULT, CRASH_DIVIDE, CRASH_HANG, CRASH_TRIPLE_FAULT };
#define UNMAPPED_GVA 0x0000007f40000000ull

void arch_crash(uint32_t kind)
{
	if (kind == CRASH_UNDEFINED)
		__asm__ volatile("udf #0");
	if (kind == CRASH_PAGE_FAULT)
		*(volatile uint64_t *)UNMAPPED_GVA = 1;
	if (kind == CRASH_DIVIDE)
		__asm__ volatile("brk #0");
	if (kind == CRASH_HANG)
		__asm__ volatile("msr daifset, #0xf; 1: b 1b");
	if (kind == CRASH_TRIPLE_FAULT)
		psci_reset();
}
