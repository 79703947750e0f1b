/* Interrupts that are counted one by one: sources, the ledger that the host reads, and what an architecture gives.
 * All of it sleeps unless the kernel command line says irq=on. Layouts and commands: PROTOCOL.md, "Interrupts". */
#ifndef PROBE_IRQ_H
#define PROBE_IRQ_H

#include "probe.h"

enum { IRQ_SOURCES = 128, IRQ_VECTORS = 64, IRQ_LOG = 4096, IRQ_MAX_LISTED = 64, IRQ_MAX_DEFERRED = 16 };

enum irq_kind {
	IRQ_DOORBELL = 1, IRQ_IPI, IRQ_TIMER, IRQ_LEVEL, IRQ_EDGE, IRQ_NMI, IRQ_SOFTWARE, IRQ_LEGACY, IRQ_VLPI = 16
};
enum irq_flag { IRQ_DEFER_EOI = 1, IRQ_MASKED = 2, IRQ_PERIODIC = 4 };
enum irq_hold { IRQ_HOLD_NONE, IRQ_HOLD_OFF, IRQ_HOLD_PRIORITY, IRQ_HOLD_SLEEP, IRQ_HOLD_ARCH = 16 };
enum irq_record_flag { RECORD_SPURIOUS = 1, RECORD_NESTED = 2, RECORD_NMI = 4, RECORD_DEFERRED = 8, RECORD_ASSERTED = 16 };
enum { IRQ_OK = 0, IRQ_BAD = 3, IRQ_UNSUPPORTED = 8, IRQ_NOT_OPEN = 9 };      /* errors of commands */

struct irq_source {
	/* as in the command */
	uint32_t id, kind, vcpu, from, line, priority, flags, reserved;
	uint64_t argument;
	/* the guest's own */
	uint32_t arch_number;           /* x86 vector, INTID */
	uint32_t raised;                /* of guest-made ones */
	uint32_t delivered;
	uint32_t next;                  /* id + 1 of the next in its bucket */
};
enum { IRQ_SOURCE_BYTES = 40 };

/* The host's ivshmem-doorbell device (QEMU docs/specs/ivshmem-spec.rst). */
struct irq_device {
	volatile uint32_t *registers;   /* BAR 0 */
	volatile uint32_t *table;       /* BAR 1: MSI-X */
	volatile uint32_t *slots;       /* BAR 2: number of the last interrupt raised, per vector */
	uint32_t vectors;
};
extern struct irq_device irq_device;

struct irq_record {
	uint64_t order, ticks;
	uint32_t number;
	uint16_t id;
	uint8_t vcpu, flags;
	uint32_t arch_number, argument;
};
struct irq_cpu {
	volatile uint64_t received, spurious, deferred, hold, reserved[4];
	struct irq_record log[IRQ_LOG];
};
struct irq_page {
	uint64_t magic;
	uint32_t layout, cpus, log_records, reserved0;
	uint64_t next_order, reserved[12];
	uint32_t received_by_id[IRQ_SOURCES];
	struct irq_cpu cpu[ARCH_MAX_CPUS];
};

/* irq.c */
extern bool irq_is_wanted, irq_is_open;
extern uint64_t irq_ticks_per_s;                        /* measured when opened: later the timer may be a source's */
extern struct irq_page *irq_page;
extern struct irq_source irq_sources[IRQ_SOURCES];
void irq_take_memory(void);                             /* before memory_settle() */
bool irq_received(struct cpu *cpu, uint32_t arch_number, uint8_t flags);  /* true: a source's; logged */
void irq_spurious(struct cpu *cpu, uint32_t arch_number);
struct irq_source *irq_find(uint32_t arch_number, unsigned vcpu);
bool irq_defers(const struct irq_source *source);       /* its handler leaves out the end of interrupt */
void irq_end_deferred(struct cpu *cpu);
void irq_forget_sources(void);
void irq_add_source(const struct irq_source *source);   /* arch_number is known by now */

/* irq_hold.c */
bool irq_holds(const struct cpu *cpu);
void irq_hold_run(struct cpu *cpu);                     /* from cpu_loop; returns when released */
void irq_hold_serve(struct cpu *cpu);                   /* one round with interrupts off: heartbeat, channel, jobs */
void irq_hold_begin(uint32_t mask, uint32_t kind, uint64_t argument);
void irq_hold_end(uint32_t mask);
void irq_woken(struct cpu *cpu);                        /* a source's interrupt came: a sleeper is awake */

/* main.c */
void cpu_duty(struct cpu *cpu);

/* irq_commands.c: codes from 64 on */
enum { CMD_IRQ = 64, CMD_IRQ_ARCH = 80 };
uint32_t irq_command(uint16_t code, const uint8_t *payload, uint32_t size, struct reply *reply);

/* What an architecture gives; irq_weak.c says "unsupported" for one that does not. */
void arch_irq_take_memory(void);
uint32_t arch_irq_open(struct irq_device *device);      /* finds and maps the device; feature bits of the processor */
uint32_t arch_irq_source(struct irq_source *source);    /* programs it, sets arch_number; IRQ_OK or an error */
void arch_irq_trigger(struct irq_source *source);       /* on vCPU source->from */
bool arch_irq_mask(const struct irq_source *source, bool masked);
bool arch_irq_is_pending(const struct irq_source *source);      /* on the target vCPU */
void arch_irq_hold(struct cpu *cpu, uint32_t kind, uint64_t argument);  /* enter, on that vCPU; not for OFF */
void arch_irq_hold_run(struct cpu *cpu, uint32_t kind); /* holds of its own, from IRQ_HOLD_ARCH on */
void arch_irq_release(struct cpu *cpu, uint32_t kind);
void arch_irq_end(const struct irq_source *source);     /* a deferred end of interrupt */
uint8_t arch_irq_before_log(struct cpu *cpu, struct irq_source *source);        /* at the device; record flags */
uint32_t arch_irq_command(uint16_t code, const uint8_t *payload, uint32_t size, struct reply *reply);

#endif
