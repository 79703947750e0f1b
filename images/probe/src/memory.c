/* RAM, what the probe keeps for itself, and what carries the pattern. */
#include "confidential.h"

extern char image_start[], image_end[];

struct ranges ram, managed;
uint64_t managed_pages;
static uint64_t taken_end;

void memory_add_ram(uint64_t start, uint64_t end)
{
	start = (start + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
	end &= ~(PAGE_SIZE - 1);
	if (start < end && ram.count < MEMORY_MAX_RANGES)
		ram.at[ram.count++] = (struct range){ start, end };
}

void *memory_take(uint64_t bytes)
{
	uint64_t at;

	if (!taken_end)
		taken_end = ((uint64_t)image_end + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
	at = taken_end;
	taken_end += (bytes + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
	for (uint64_t *word = (uint64_t *)at; word < (uint64_t *)taken_end; word++)
		*word = 0;
	return (void *)at;
}

static void manage(uint64_t start, uint64_t end)
{
	if (start >= end || managed.count == MEMORY_MAX_RANGES)
		return;
	managed.at[managed.count++] = (struct range){ start, end };
	managed_pages += (end - start) / PAGE_SIZE;
}

void memory_settle(void)
{
	uint64_t pages = 0;

	for (unsigned i = 0; i < ram.count; i++)
		pages += (ram.at[i].end - ram.at[i].start) / PAGE_SIZE;
	ledger = memory_take(pages * sizeof *ledger);
	if (cvm.kind)
		views = memory_take(pages / 8 + 1);
	for (unsigned i = 0; i < ram.count; i++) {
		uint64_t start = ram.at[i].start, end = ram.at[i].end;

		if (start < arch_reserved_end)
			start = arch_reserved_end;
		if (start < taken_end && end > (uint64_t)image_start) {
			manage(start, (uint64_t)image_start);
			start = taken_end;
		}
		manage(start, end);
	}
}

bool memory_is_ram(uint64_t gpa, uint64_t bytes)
{
	for (unsigned i = 0; i < ram.count; i++)
		if (gpa >= ram.at[i].start && gpa < ram.at[i].end && bytes <= ram.at[i].end - gpa)
			return true;
	return false;
}

uint64_t memory_page_gpa(uint64_t index)
{
	for (unsigned i = 0; i < managed.count; i++) {
		uint64_t pages = (managed.at[i].end - managed.at[i].start) / PAGE_SIZE;

		if (index < pages)
			return managed.at[i].start + index * PAGE_SIZE;
		index -= pages;
	}
	return 0;
}
