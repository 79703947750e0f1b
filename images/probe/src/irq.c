/* The ledger of interrupts: each one is logged with its number, then the host is rung. */
#include "irq.h"

#define IRQ_MAGIC 0x31514947494d5643ull         /* "CVMIGIQ1" */
enum { BUCKETS = 64, DOORBELL = 3, HOST_PEER = 1 };

bool irq_is_wanted, irq_is_open;
uint64_t irq_ticks_per_s;
struct irq_page *irq_page;
struct irq_device irq_device;
struct irq_source irq_sources[IRQ_SOURCES];
static uint32_t buckets[BUCKETS];
static uint32_t deferred[ARCH_MAX_CPUS][IRQ_MAX_DEFERRED];

void irq_take_memory(void)
{
	if (!irq_is_wanted)
		return;
	irq_page = memory_take(sizeof *irq_page);
	irq_page->magic = IRQ_MAGIC;
	irq_page->layout = 1;
	irq_page->log_records = IRQ_LOG;
	arch_irq_take_memory();
}

void irq_forget_sources(void)
{
	memset(buckets, 0, sizeof buckets);
	memset(irq_sources, 0, sizeof irq_sources);
}

void irq_add_source(const struct irq_source *source)
{
	struct irq_source *kept = &irq_sources[source->id];
	uint32_t *bucket = &buckets[source->arch_number % BUCKETS];

	*kept = *source;
	kept->next = *bucket;
	/* A handler may look while this is written. */
	__atomic_store_n(bucket, source->id + 1, __ATOMIC_RELEASE);
}

/* The vCPU's own source of that number; else another vCPU's, whose interrupt went astray. */
struct irq_source *irq_find(uint32_t arch_number, unsigned vcpu)
{
	struct irq_source *astray = 0;

	for (uint32_t at = __atomic_load_n(&buckets[arch_number % BUCKETS], __ATOMIC_ACQUIRE); at; at = irq_sources[at - 1].next) {
		struct irq_source *source = &irq_sources[at - 1];

		if (source->arch_number != arch_number)
			continue;
		if (source->vcpu == vcpu)
			return source;
		astray = source;
	}
	return astray;
}

bool irq_defers(const struct irq_source *source)
{
	return source->flags & IRQ_DEFER_EOI && source->delivered == 1;
}

static void ring(void)
{
	if (irq_device.registers)
		irq_device.registers[DOORBELL] = HOST_PEER << 16;
}

static void append(struct cpu *cpu, struct irq_record record)
{
	struct irq_cpu *ledger_cpu = &irq_page->cpu[cpu->index];
	uint64_t at = ledger_cpu->received;

	record.order = __atomic_add_fetch(&irq_page->next_order, 1, __ATOMIC_ACQ_REL);
	record.ticks = arch_ticks();
	record.vcpu = (uint8_t)cpu->index;
	ledger_cpu->log[at % IRQ_LOG] = record;
	__atomic_store_n(&ledger_cpu->received, at + 1, __ATOMIC_RELEASE);
}

bool irq_received(struct cpu *cpu, uint32_t arch_number, uint8_t flags)
{
	struct irq_source *source = irq_is_open ? irq_find(arch_number, cpu->index) : 0;
	struct irq_cpu *ledger_cpu;

	if (!source)
		return false;
	ledger_cpu = &irq_page->cpu[cpu->index];
	source->delivered++;
	flags |= arch_irq_before_log(cpu, source);
	if (ledger_cpu->deferred)
		flags |= RECORD_NESTED;
	if (irq_defers(source) && ledger_cpu->deferred < IRQ_MAX_DEFERRED) {
		deferred[cpu->index][ledger_cpu->deferred++] = source->id;
		flags |= RECORD_DEFERRED;
	}
	append(cpu, (struct irq_record){
		.number = source->kind == IRQ_DOORBELL || source->kind == IRQ_VLPI ? irq_device.slots[source->line] : source->raised,
		.id = (uint16_t)source->id, .flags = flags, .arch_number = arch_number, .argument = source->delivered,
	});
	__atomic_add_fetch(&irq_page->received_by_id[source->id], 1, __ATOMIC_ACQ_REL);
	irq_woken(cpu);
	ring();
	return true;
}

void irq_spurious(struct cpu *cpu, uint32_t arch_number)
{
	if (!irq_is_open)
		return;
	irq_page->cpu[cpu->index].spurious++;
	append(cpu, (struct irq_record){ .id = 0xffff, .flags = RECORD_SPURIOUS, .arch_number = arch_number });
	ring();
}

/* The last one first: it is the one that the controller would end. */
void irq_end_deferred(struct cpu *cpu)
{
	struct irq_cpu *ledger_cpu = &irq_page->cpu[cpu->index];

	while (ledger_cpu->deferred)
		arch_irq_end(&irq_sources[deferred[cpu->index][--ledger_cpu->deferred]]);
}
