/* The C-bit in page tables: which leaf has it, changing it, and splitting large pages where only a part changes. */
#include "x86.h"
#include "confidential.h"

enum { PRESENT_WRITABLE = 3, LARGE = 0x80, CHANGED = 1 << 9 };    /* bit 9 is software's (Intel SDM vol. 3, 4.5) */
#define ADDRESS 0x000ffffffffff000ull
#define GIB 0x40000000ull
#define TWO_MIB 0x200000ull
#define FOUR_GIB 0x100000000ull

extern uint64_t page_pml4[512], page_pdpt[512];

static uint64_t *pool;
static uint64_t pool_tables, pool_used;
static uint32_t busy;

static void lock(void)
{
	while (__atomic_exchange_n(&busy, 1, __ATOMIC_ACQUIRE))
		arch_relax();
}

static void unlock(void)
{
	__atomic_store_n(&busy, 0, __ATOMIC_RELEASE);
}

uint64_t arch_tables_root(void)
{
	return (uint64_t)page_pml4;
}

static uint64_t top_of_ram(void)
{
	uint64_t top = low_ram_end;

	for (unsigned i = 0; i < ram.count; i++)
		top = ram.at[i].end > top ? ram.at[i].end : top;
	return top;
}

/* Where RAM is, holes of the firmware's map included: [0, low) and [4 GiB, top). */
static uint64_t next_ram(uint64_t gpa)
{
	return gpa >= low_ram_end && gpa < FOUR_GIB ? FOUR_GIB : gpa;
}

/* Room to split every page there is: one table for each 2 MiB, and one for each GiB above those that boot.S has. */
void arch_tables_take_memory(void)
{
	uint64_t top = top_of_ram(), low = (low_ram_end + TWO_MIB - 1) / TWO_MIB;

	pool_tables = low;
	if (top > FOUR_GIB)
		pool_tables += (top - FOUR_GIB + TWO_MIB - 1) / TWO_MIB + (top - FOUR_GIB + GIB - 1) / GIB;
	pool = memory_take(pool_tables * PAGE_SIZE);
}

static uint64_t load(const uint64_t *entry)
{
	return __atomic_load_n(entry, __ATOMIC_ACQUIRE);
}

/* For who holds the lock. */
static uint64_t *leaf_of(uint64_t gpa, uint64_t *size)
{
	uint64_t *entry = &page_pdpt[gpa / GIB % 512];

	for (*size = GIB; *size > PAGE_SIZE && !(load(entry) & LARGE); *size /= 512)
		entry = (uint64_t *)(load(entry) & ADDRESS) + gpa / (*size / 512) % 512;
	return entry;
}

/* The leaf's value, each level read once: who holds no lock may see another vCPU split the page, and an entry that is read
 * again is a table by then, which has no C-bit. */
static uint64_t leaf_value(uint64_t gpa, uint64_t *size)
{
	uint64_t value = load(&page_pdpt[gpa / GIB % 512]);

	for (*size = GIB; *size > PAGE_SIZE && !(value & LARGE); *size /= 512)
		value = load((const uint64_t *)(value & ADDRESS) + gpa / (*size / 512) % 512);
	return value;
}

static void split(uint64_t *entry, uint64_t size)
{
	static const struct panic exhausted = { .vector = 3 };
	uint64_t *table = pool + pool_used * 512, old = load(entry), part = size / 512;

	if (pool_used++ == pool_tables)
		panic(&exhausted);
	for (uint64_t i = 0; i < 512; i++)
		table[i] = (part == PAGE_SIZE ? old & ~(uint64_t)LARGE : old) + i * part;
	__atomic_store_n(entry, (uint64_t)table | PRESENT_WRITABLE, __ATOMIC_RELEASE);
}

static void apply(uint64_t start, uint64_t end, uint64_t (*change)(uint64_t entry))
{
	lock();
	for (uint64_t gpa = start, size; gpa < end;) {
		uint64_t *entry = leaf_of(gpa, &size);

		if (gpa % size || end - gpa < size) {
			split(entry, size);
			continue;
		}
		__atomic_store_n(entry, change(*entry), __ATOMIC_RELEASE);
		gpa += size;
	}
	unlock();
}

static uint64_t to_private(uint64_t entry)
{
	return entry & cvm.cbit_mask ? entry : entry | cvm.cbit_mask | CHANGED;
}

static uint64_t to_shared(uint64_t entry)
{
	return entry & cvm.cbit_mask ? (entry & ~cvm.cbit_mask) | CHANGED : entry;
}

static uint64_t undone(uint64_t entry)
{
	return entry & CHANGED ? (entry ^ cvm.cbit_mask) & ~(uint64_t)CHANGED : entry;
}

static uint64_t settled(uint64_t entry)
{
	return entry & ~(uint64_t)CHANGED;
}

void arch_tables_set(uint64_t start, uint64_t end, bool private)
{
	apply(start, end, private ? to_private : to_shared);
}

void arch_tables_undo(uint64_t start, uint64_t end)
{
	apply(start, end, undone);
}

void arch_tables_settle(uint64_t start, uint64_t end)
{
	apply(start, end, settled);
}

/* Leaves are taken whole: what lies in the same page as the end of RAM is firmware's. */
void arch_tables_protect(void)
{
	uint64_t size;

	for (uint64_t gpa = 0; gpa < top_of_ram(); gpa = next_ram(gpa + size)) {
		uint64_t *entry = leaf_of(gpa, &size);

		gpa &= ~(size - 1);
		*entry |= cvm.cbit_mask;
	}
	arch_flush_tlb();
}

bool arch_tables_shared(uint64_t gpa)
{
	uint64_t size;

	return !(leaf_value(gpa, &size) & cvm.cbit_mask);
}

bool arch_tables_changed(uint64_t gpa)
{
	uint64_t size;

	return leaf_value(gpa, &size) & CHANGED;
}

void arch_tables_walk(void (*shared)(void *state, uint64_t start, uint64_t end), void *state)
{
	uint64_t start = 0, end = 0, size, top = top_of_ram();

	for (uint64_t gpa = 0; gpa < top; gpa = next_ram((gpa & ~(size - 1)) + size)) {
		if (leaf_value(gpa, &size) & cvm.cbit_mask)
			continue;
		if (end != gpa) {
			if (start < end)
				shared(state, start, end);
			start = gpa;
		}
		end = (gpa & ~(size - 1)) + size;
	}
	if (start < end)
		shared(state, start, end);
}
