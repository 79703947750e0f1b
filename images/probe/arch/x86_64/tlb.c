/* Translations that have changed are forgotten by each vCPU before it next uses one, without interrupting anybody.
 *
 * A converted page is locked in the ledger from before its tables change until after. Nobody touches a managed page without
 * its lock, and who takes a lock first catches up with the generation of the tables. So no store can go through an old
 * view, which on silicon would be garbage in the new one. (TCG ignores the C-bit; nothing here relies on that.) */
#include "x86.h"
#include "confidential.h"

static uint64_t generation, caught_up[ARCH_MAX_CPUS];

void arch_tables_have_changed(void)
{
	__atomic_fetch_add(&generation, 1, __ATOMIC_ACQ_REL);
	arch_tables_catch_up();
}

void arch_tables_catch_up(void)
{
	uint64_t now = __atomic_load_n(&generation, __ATOMIC_ACQUIRE), *mine = &caught_up[arch_this_cpu()->index];

	if (*mine == now)
		return;
	*mine = now;
	arch_flush_tlb();
}
