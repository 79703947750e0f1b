/* Pages whose conversion the host has refused: nobody can say what the host takes them for, so nobody uses them again. */
#include "confidential.h"

enum { MOST = 1024 };

static struct range leaked[MOST];
static unsigned leaked_count;

bool leaked_any(uint64_t start, uint64_t end)
{
	for (unsigned i = 0; i < __atomic_load_n(&leaked_count, __ATOMIC_ACQUIRE); i++)
		if (leaked[i].start < end && leaked[i].end > start)
			return true;
	return false;
}

/* Its pages are locked in the ledger: nobody looks for them meanwhile. */
void leaked_add(uint64_t start, uint64_t end)
{
	static const struct panic full = { .vector = 3 };
	static uint32_t busy;

	while (__atomic_exchange_n(&busy, 1, __ATOMIC_ACQUIRE))
		arch_relax();
	if (leaked_count == MOST)
		panic(&full);
	leaked[leaked_count] = (struct range){ start, end };
	if (leaked_count < MAX_LEAKED)
		cvm_page->leaked[leaked_count] = leaked[leaked_count];
	__atomic_store_n(&leaked_count, leaked_count + 1, __ATOMIC_RELEASE);
	cvm_page->leaks = leaked_count;
	__atomic_store_n(&busy, 0, __ATOMIC_RELEASE);
}
