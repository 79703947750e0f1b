/* boot.S maps the first GiB as devices and the second as RAM; this adds the RAM above and devices in high places. */
#include "arm.h"

#define GIB 0x40000000ull
enum { ENTRIES = 512 };

extern uint64_t page_l1[ENTRIES];

static void map_gib(uint64_t gib, uint64_t kind)
{
	if (gib >= ENTRIES || page_l1[gib])
		return;
	page_l1[gib] = gib * GIB | kind;
	barrier();
}

void paging_map_ram(void)
{
	for (unsigned i = 0; i < ram.count; i++)
		for (uint64_t gib = ram.at[i].start / GIB; gib * GIB < ram.at[i].end; gib++)
			map_gib(gib, BLOCK_NORMAL);
}

void paging_map_device(uint64_t gpa)
{
	map_gib(gpa / GIB, BLOCK_DEVICE);
}
