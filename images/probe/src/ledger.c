/* Generation per managed page. Bit 31 is held while the page is being written, so several vCPUs may share pages. */
#include "confidential.h"

volatile uint32_t *ledger;

uint32_t ledger_lock(uint64_t page)
{
	for (;;) {
		uint32_t value = __atomic_fetch_or(&ledger[page], LEDGER_LOCK, __ATOMIC_ACQUIRE);

		if (!(value & LEDGER_LOCK)) {
			arch_tables_catch_up();
			return value;
		}
		ledger_wait();
	}
}

void ledger_unlock(uint64_t page, uint32_t generation)
{
	__atomic_store_n(&ledger[page], generation, __ATOMIC_RELEASE);
}
