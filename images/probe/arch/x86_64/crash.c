/* Crashes on purpose. */
#include "x86.h"

enum { CRASH_UNDEFINED, CRASH_PAGE_FAULT, CRASH_DIVIDE, CRASH_HANG, CRASH_TRIPLE_FAULT };
#define UNMAPPED_GVA 0x0000500000123000ull

void triple_fault(void)
{
	static const struct table_register nothing;

	__asm__ volatile("lidt %0; int3" : : "m"(nothing));
}

void arch_crash(uint32_t kind)
{
	if (kind == CRASH_UNDEFINED)
		__asm__ volatile("ud2");
	if (kind == CRASH_PAGE_FAULT)
		*(volatile uint64_t *)UNMAPPED_GVA = 1;
	if (kind == CRASH_DIVIDE)
		__asm__ volatile("xor %%edx, %%edx; xor %%ecx, %%ecx; div %%ecx" : : : "eax", "ecx", "edx", "cc");
	if (kind == CRASH_HANG)
		__asm__ volatile("cli; 1: jmp 1b");
	if (kind == CRASH_TRIPLE_FAULT)
		triple_fault();
}
