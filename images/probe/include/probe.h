/* The shared nouns of the probe. */
#ifndef PROBE_H
#define PROBE_H

#include "arch.h"

#define PROBE_VERSION 1u
#define PAGE_SIZE 4096ull
#define LINE_SIZE 64u
#define LINES_PER_PAGE 64u
#define WORDS_PER_LINE 8u
#define WORDS_PER_PAGE 512u

/* memory.c: RAM, what the probe keeps for itself, and what carries the pattern. */
enum { MEMORY_MAX_RANGES = 16 };
struct range {
	uint64_t start, end;
};
struct ranges {
	unsigned count;
	struct range at[MEMORY_MAX_RANGES];
};
extern struct ranges ram, managed;
extern uint64_t managed_pages;
void memory_add_ram(uint64_t start, uint64_t end);
void *memory_take(uint64_t bytes);                  /* page-aligned, zeroed, before memory_settle() */
void memory_settle(void);                           /* makes the ledger and fixes the managed ranges */
bool memory_is_ram(uint64_t gpa, uint64_t bytes);
uint64_t memory_page_gpa(uint64_t index);           /* managed page index -> gpa */

/* cpu.c and main.c: one per vCPU. */
struct damage_log;
typedef void (*job_fn)(struct cpu *cpu);
struct work {
	uint32_t kind, pages_per_tick, pages_per_flush, unflushed;
	uint64_t seed, random, first, count, next;
	uint64_t written, verified, bad, budget;
};
enum { CANARY_MAX_MISMATCHES = 16, CANARY_VALUE_BYTES = 32 };
struct canary_mismatch {
	uint32_t register_id, size;
	uint8_t expected[CANARY_VALUE_BYTES], found[CANARY_VALUE_BYTES];
};
struct canary {
	volatile uint32_t armed;
	uint64_t seed;
	uint32_t checks, mismatches;
	struct canary_mismatch list[CANARY_MAX_MISMATCHES];
};
struct cpu {
	unsigned index;
	volatile uint32_t online;
	job_fn volatile job;
	volatile uint32_t working;
	struct work work;
	struct canary canary;
	void *arch;
};
extern struct cpu cpus[ARCH_MAX_CPUS];
extern unsigned cpu_count;
bool has_duty(const struct cpu *cpu);               /* something to do other than sleep or spin */
_Noreturn void cpu_loop(struct cpu *cpu);
void run_on_cpus(uint32_t mask, job_fn job);        /* from the boot processor; returns when all have done it */
uint32_t all_cpus(void);
_Noreturn void probe_main(void *boot_info);

/* pattern.c, diagnose.c */
extern uint64_t pattern_seed;
uint64_t pattern_key(uint64_t page_gpa, uint64_t generation, uint64_t seed);
void pattern_write(uint64_t page_gpa, uint64_t generation, uint64_t seed);
bool pattern_matches(uint64_t page_gpa, uint64_t generation, uint64_t seed);
void pattern_line(uint64_t line_gpa, uint64_t generation, uint64_t seed, uint64_t line[WORDS_PER_LINE]);

enum damage_kind {
	DAMAGE_NONE, DAMAGE_STALE, DAMAGE_NEWER, DAMAGE_SWAPPED, DAMAGE_SHIFTED, DAMAGE_TORN, DAMAGE_ZEROED, DAMAGE_LINE,
	DAMAGE_BIT, DAMAGE_RANDOM, DAMAGE_FOREIGN, DAMAGE_KINDS
};
struct damage {
	uint64_t gpa, first_bad_gpa, other_gpa;
	uint32_t expected_generation, found_generation;
	uint32_t kind, lines;
	uint64_t expected[WORDS_PER_LINE], found[WORDS_PER_LINE];
};
enum damage_kind diagnose(uint64_t page_gpa, uint64_t generation, uint64_t seed, struct damage *damage);

/* ledger.c: one u32 per managed page, bit 31 is the page's lock. */
#define LEDGER_LOCK 0x80000000u
extern volatile uint32_t *ledger;
uint32_t ledger_lock(uint64_t page);                /* returns the generation */
void ledger_unlock(uint64_t page, uint32_t generation);

/* verify.c */
enum { VERIFY_MAX_RECORDS = 32 };
struct verify_result {
	uint64_t checked, bad, ledger_sum, written_sum;
	uint64_t by_kind[DAMAGE_KINDS];
	uint32_t records;
	struct damage record[VERIFY_MAX_RECORDS];
};
extern bool filled;
void fill_all(uint64_t seed);
void verify_all(uint32_t limit, struct verify_result *result);
uint64_t bench(uint32_t kind, uint64_t pages);      /* ticks */

/* workload.c */
enum { WORK_IDLE, WORK_SEQUENTIAL, WORK_RANDOM, WORK_HOT_SET, WORK_FULL, WORK_READ_MOSTLY, WORK_SHARED, WORK_KINDS };
void work_start(uint32_t kind, uint32_t mask, uint64_t seed, uint64_t pages, uint32_t pages_per_tick,
		uint32_t pages_per_flush);
void work_stop(void);                               /* returns when no vCPU works any more */
bool work_is_due(const struct cpu *cpu);            /* working, and not yet out of pages for this tick */
void work_slice(struct cpu *cpu);
void work_tick(struct cpu *cpu);
extern struct damage work_damage;                   /* the first damage found while running */
extern volatile uint32_t work_damages;

/* heartbeat.c: the host reads this page without our help; layout in PROTOCOL.md. */
struct heartbeat_cpu {
	volatile uint64_t beats, ticks, written, writing_gpa, max_back, max_gap, gap_at, reserved;
};
struct heartbeat_page {
	uint64_t magic, boot_id;
	uint32_t layout, cpus;
	uint64_t seed, ledger_gpa, managed_pages, boot_count, reserved;
	struct heartbeat_cpu cpu[ARCH_MAX_CPUS];
};
extern struct heartbeat_page *heartbeat;
extern uint64_t boot_id, boot_count;
/* What the next boot needs to judge the memory that this one leaves behind: views_gpa is a bitmap, 0 where nothing is shared. */
struct keepsake {
	uint64_t seed, ledger_gpa, views_gpa;
	struct ranges managed;
	uint32_t is_there, crc;                         /* of all before it */
};
#define BOOT_MAGIC 0x31544f4f424d5643ull        /* "CVMBOOT1" */
struct boot_page {
	uint64_t magic, count, check;
	uint64_t is_kexec, boot_id, kernels, variable, hypercalls;  /* what a kernel finds of the one before it */
	uint64_t last_request[3];
	struct range spared;                            /* where firmware works while it boots; told once by the host */
	struct keepsake keepsake;
};
extern bool is_kexec;                               /* another kernel started this one, no reset did */
extern struct boot_page boot_page;                  /* first page after the image, see link.ld: no loader writes there */
void heartbeat_init(void);
void heartbeat_tick(struct cpu *cpu);               /* from the timer interrupt */
void heartbeat_reset_gaps(void);

/* views.c: a bit per managed page, set when it was last written through its shared view. Tables do not survive a reset. */
extern uint8_t *views;
void views_note(uint64_t page, bool shared);

/* early.c: the first thing that a boot does is to look at what the one before it left. */
enum { EARLY_NOTHING, EARLY_LOOKED, EARLY_SPOILED, EARLY_MAX_INTERRUPTS = 64 };
enum interrupt_state { INTERRUPT_PENDING, INTERRUPT_ACTIVE, INTERRUPT_ENABLED };
struct interrupts {
	uint32_t count, at[EARLY_MAX_INTERRUPTS];       /* state << 24 | vCPU << 16 | vector, pin or INTID */
};
struct early {
	uint32_t state;
	uint64_t boot_id, boot_count, locked, spared, ticks;    /* boot: of the one before */
	struct verify_result result;
	struct interrupts interrupts;
};
extern struct early early;
void early_look(void);
void keepsake_drop(void);                           /* memory is about to be something else */
void keepsake_set(void);
void interrupts_note(struct interrupts *list, enum interrupt_state state, unsigned cpu, uint32_t number);

/* reboot.c */
enum way {
	REBOOT_HOST, REBOOT_RESET_PORT, REBOOT_KEYBOARD, REBOOT_ACPI, REBOOT_TRIPLE_FAULT, REBOOT_WATCHDOG, REBOOT_PANIC, REBOOT_PSCI,
	REBOOT_KEXEC, REBOOT_BARE, REBOOT_WAYS
};
bool reboot_prepare(uint32_t way, uint32_t mask, bool pend, struct interrupts *pending);
void reboot(void);

/* canary.c */
void canary_arm(uint32_t mask, uint64_t seed);
void canary_check(void);                            /* all armed vCPUs leave, compare and are disarmed */
void canary_compare(struct cpu *cpu, uint32_t register_id, const void *expected, const void *found, uint32_t size);

/* channel.c: frames. commands.c: what they mean. */
void channel_received(uint8_t byte);                /* from the interrupt */
bool channel_pending(void);
void channel_poll(void);                            /* handle what has come in; boot processor only */
void channel_poll_busy(void);                       /* the same while a command is being executed */
void channel_event(uint16_t code, const void *payload, uint32_t size);
void channel_keep(void);                            /* the request that is being executed, for the next kernel */
void channel_restore(void);
void channel_abort(void);                           /* ends a frame that a fault has cut short */
struct reply {
	uint32_t size;
	uint8_t bytes[16384];
};
void reply_put(struct reply *reply, const void *bytes, uint32_t size);
void reply_u32(struct reply *reply, uint32_t value);
void reply_u64(struct reply *reply, uint64_t value);
uint32_t command_execute(uint16_t code, const uint8_t *payload, uint32_t size, struct reply *reply);
void command_finish(uint16_t code, const uint8_t *payload, uint32_t size);

/* console.c */
void console_line(const char *format, ...);         /* %s %u (u64) %x (u64) only */

/* panic.c */
struct panic {
	uint64_t vector, error, ip, fault_gva, cpu;
};
_Noreturn void panic(const struct panic *panic);

/* string.c, crc32.c */
void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *a, const void *b, size_t size);
uint32_t crc32(const void *bytes, size_t size);

#endif
