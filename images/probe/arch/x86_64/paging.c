/* boot.S maps the first 4 GiB; this adds the RAM above, in 1 GiB pages where the processor has them. */
#include "x86.h"

#define GIB 0x40000000ull

extern uint64_t page_pdpt[512];

static bool has_gib_pages(void)
{
	return cpuid(0x80000000, 0).a >= 0x80000001 && cpuid(0x80000001, 0).d & 1u << 26;
}

static void map_gib(uint64_t gib, bool whole)
{
	uint64_t *directory;

	if (page_pdpt[gib])
		return;
	if (whole) {
		page_pdpt[gib] = gib * GIB | 0x83;
		return;
	}
	directory = memory_take(PAGE_SIZE);
	for (uint64_t i = 0; i < 512; i++)
		directory[i] = (gib * GIB + i * 0x200000) | 0x83;
	page_pdpt[gib] = (uint64_t)directory | 3;
}

void paging_map_ram(void)
{
	bool whole = has_gib_pages();

	for (unsigned i = 0; i < ram.count; i++)
		for (uint64_t gib = ram.at[i].start / GIB; gib * GIB < ram.at[i].end && gib < 512; gib++)
			map_gib(gib, whole);
}
