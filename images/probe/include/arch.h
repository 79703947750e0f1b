/* What an architecture gives to the shared code. Everything else of arch/<arch>/ is private to it. */
#ifndef PROBE_ARCH_H
#define PROBE_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ARCH_MAX_CPUS = 8, ARCH_X86_64 = 1, ARCH_AARCH64 = 2 };

struct cpu;

/* Number written into DESCRIBE: ARCH_X86_64, ... */
extern const uint32_t arch_id;

/* RAM below this gpa is never managed: firmware or the device tree lives there. */
extern const uint64_t arch_reserved_end;

/* Boot, in this order; the first is called by arch code with the boot processor's struct cpu set. */
void arch_find_memory(void *boot_info);             /* calls memory_add_ram() for each range */
void arch_init_boot_cpu(void);                      /* traps, page tables for all RAM, interrupt controllers, timer */
unsigned arch_start_cpus(void);                     /* all others; returns how many run, the boot processor included */

/* The calling vCPU. */
struct cpu *arch_this_cpu(void);
void arch_irq_on(void);
void arch_irq_off(void);
void arch_wait_for_irq(void);                       /* called with interrupts off; on and asleep in one step */
void arch_relax(void);
void arch_flush_tlb(void);                          /* forget all translations of the calling vCPU */
uint64_t arch_ticks(void);                          /* the clock that user space would read: TSC, CNTVCT */
uint64_t arch_ticks_per_s(void);                    /* measured against the timer for about a millisecond */
uint64_t arch_random(void);                         /* entropy for the boot id; not for secrets */

bool arch_has_duty(const struct cpu *cpu);          /* work of its own for that vCPU, next to jobs and workloads */
void arch_do_duty(struct cpu *cpu);

void arch_kick(unsigned cpu);                       /* wake another vCPU from its wait or its canaries */
void arch_halt_others(void);
_Noreturn void arch_halt(void);                     /* this vCPU, for ever */
void arch_power_off(void);                          /* returns when the machine has no such thing */
void arch_reset(void);
/* enum way of probe.h, but for REBOOT_HOST and kernels that start another. False where the machine has no such way. */
bool arch_prepare_reboot(uint32_t way);
void arch_reboot(uint32_t way);                     /* returns when nothing happens */
void arch_map_ram(void);                            /* all of it can be read; before arch_init_boot_cpu() */
struct interrupts;
void arch_interrupts(struct interrupts *list);      /* what is pending, in service or let through; as firmware or the reset left it */
void arch_pend_interrupts(void);                    /* on the calling vCPU, interrupts off: some that nobody has a handler for */

/* Lines. The channel is the command protocol's. */
void arch_console_put(char c);
void arch_channel_put(const void *bytes, size_t size);
void arch_channel_poll(void);                       /* move received bytes to channel_received(), called from the timer */

/* Crashes on purpose, see PROTOCOL.md; returns when *kind* is unknown. */
void arch_crash(uint32_t kind);

/* vCPU canaries: load the registers, spin, and come back when kicked (or a byte came in on the boot processor).
 * Mismatches are given to canary_mismatch(). */
void arch_canary_spin(struct cpu *cpu, uint64_t seed);

#endif
