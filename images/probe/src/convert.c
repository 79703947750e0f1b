/* Conversion of memory between private and shared. Its pages are locked in the ledger from the first step to the last, so
 * workloads never see a page amid it, and a host that finds this vCPU stopped sees from the cvm page which range it was. */
#include "confidential.h"

enum { ENCRYPTED = 1 << 4, SIZE_2M = 1 };
#define TWO_MIB 0x200000ull

struct job {
	struct cpu *cpu;
	struct cvm_cpu *record;
	uint64_t start, end, asked, first_page, scramble;
	bool private;
};

static uint64_t page_size_of(uint64_t start, uint64_t pages)
{
	return start % TWO_MIB || pages * PAGE_SIZE % TWO_MIB ? 0 : SIZE_2M;
}

/* KVM_HC_MAP_GPA_RANGE until all is done. Returns RAX; *done* is how far it came. */
uint64_t tell_range(struct cpu *cpu, uint64_t start, uint64_t pages, bool private, uint64_t *scramble, uint64_t *done)
{
	uint64_t end = start + pages * PAGE_SIZE;
	struct answer answer = { 0 };

	*scramble = 0;
	*done = start;
	while (*done < end && cvm_page->features & FEATURE_MAP_GPA_RANGE) {
		uint64_t left = (end - *done) / PAGE_SIZE;
		struct registers call = { .rbx = *done, .rcx = left };
		uint64_t result;

		call.rdx = page_size_of(*done, left) | (private ? ENCRYPTED : 0);
		result = guest_map_gpa_range(cpu, &call, &answer);
		*scramble = answer.extra ? answer.extra : *scramble;
		if (!(answer.flags & HYPERCALL_RETRY)) {
			*done = result ? *done : end;
			return result;
		}
		count(COUNT_RETRIED);
		if (result <= *done || result >= end || has_fault(FAULT_RETRY_IGNORED))
			break;
		*done = result;
	}
	*done = end;
	return 0;
}

/* gpa -> index of its managed page; false where the range leaves what is managed. */
static bool find_pages(uint64_t start, uint64_t end, uint64_t *index)
{
	*index = 0;
	for (unsigned i = 0; i < managed.count; i++) {
		const struct range *range = &managed.at[i];

		if (start >= range->start && end <= range->end && start < end) {
			*index += (start - range->start) / PAGE_SIZE;
			return true;
		}
		*index += (range->end - range->start) / PAGE_SIZE;
	}
	return false;
}

static void lock_pages(const struct job *job)
{
	for (uint64_t i = 0; i < (job->end - job->start) / PAGE_SIZE; i++)
		ledger_lock(job->first_page + i);
}

static void unlock_pages(const struct job *job, bool rewritten)
{
	struct heartbeat_cpu *beat = &heartbeat->cpu[job->cpu->index];

	for (uint64_t i = 0; i < (job->end - job->start) / PAGE_SIZE; i++) {
		uint32_t generation = ledger[job->first_page + i] & ~LEDGER_LOCK;

		if (rewritten)
			beat->written++;
		ledger_unlock(job->first_page + i, generation + rewritten);
	}
	ledger_wake();
}

static void change_tables(const struct job *job)
{
	arch_tables_set(job->start, job->end, job->private);
	arch_tables_have_changed();
}

/* What DRAM looks like through the other view: the platform says how, silicon would do it by itself. */
static void scramble_page(uint64_t gpa, uint64_t key)
{
	volatile uint64_t *word = (volatile uint64_t *)gpa;

	for (unsigned i = 0; i < WORDS_PER_PAGE; i++)
		word[i] ^= mix64(key ^ (gpa + 8 * i));
}

static void note_stale(uint64_t gpa, uint32_t generation)
{
	uint64_t old_seed = view_seed(gpa) ^ SHARED_SEED;

	if (filled && cvm_page->features & FEATURE_MAP_GPA_RANGE && pattern_matches(gpa, generation, old_seed))
		count(COUNT_STALE_BACKING);
}

static void rewrite(const struct job *job)
{
	bool looked = false;

	for (uint64_t gpa = job->start, page = job->first_page; gpa < job->end; gpa += PAGE_SIZE, page++) {
		uint32_t generation = ledger[page] & ~LEDGER_LOCK;

		if (arch_tables_changed(gpa)) {
			if (job->scramble)
				scramble_page(gpa, job->scramble);
			if (!looked)
				note_stale(gpa, generation);
			looked = true;
		}
		if (!filled)
			continue;
		pattern_write(gpa, generation + 1, view_seed(gpa));
		views_note(page, view_seed(gpa) != pattern_seed);
	}
}

/* A firmware that divides the length instead of counting from page to page comes out one short. */
static uint64_t pages_to_tell(const struct job *job, uint64_t gpa)
{
	uint64_t pages = (job->end - job->start) / PAGE_SIZE;

	if (has_fault(FAULT_UNALIGNED_UNDERCOUNT) && gpa % PAGE_SIZE && pages > 1)
		return (job->asked + PAGE_SIZE - 1) / PAGE_SIZE < pages ? pages - 1 : pages;
	return pages;
}

static void set_step(const struct job *job, enum step step)
{
	__atomic_store_n(&job->record->step, step, __ATOMIC_RELEASE);
}

/* The host refused [job->start, job->end). A good kernel puts the tables back and never uses these pages again. */
static void give_up(const struct job *job, bool hypercall_first)
{
	count(COUNT_FAILED);
	if (has_fault(FAULT_REUSES_UNCONVERTED)) {
		if (hypercall_first)
			change_tables(job);
		rewrite(job);
		arch_tables_settle(job->start, job->end);
		unlock_pages(job, filled);
		return;
	}
	if (!hypercall_first) {
		arch_tables_undo(job->start, job->end);
		arch_tables_have_changed();
	}
	leaked_add(job->start, job->end);
	unlock_pages(job, false);
}

static void finish(const struct job *job)
{
	set_step(job, STEP_REWRITING);
	rewrite(job);
	arch_tables_settle(job->start, job->end);
	unlock_pages(job, filled);
	count(job->private ? COUNT_TO_PRIVATE : COUNT_TO_SHARED);
}

static enum convert_status run(struct job *job, uint64_t gpa, bool hypercall_first, uint64_t *result)
{
	struct job done = *job, rest = *job;
	uint64_t until;

	if (!hypercall_first) {
		change_tables(job);
		set_step(job, STEP_TABLES_CHANGED);
	}
	*result = tell_range(job->cpu, job->start, pages_to_tell(job, gpa), job->private, &done.scramble, &until);
	if (*result) {
		done.end = rest.start = until;
		rest.first_page += (until - job->start) / PAGE_SIZE;
	}
	if (hypercall_first) {
		set_step(job, STEP_HYPERCALL_DONE);
		if (done.start < done.end)
			change_tables(&done);
	}
	if (done.start < done.end)
		finish(&done);
	if (*result)
		give_up(&rest, hypercall_first);
	return *result ? CONVERT_REFUSED : CONVERT_OK;
}

enum convert_status convert(struct cpu *cpu, uint64_t gpa, uint64_t bytes, uint32_t flags, uint64_t *result)
{
	struct job job = {
		.cpu = cpu, .record = &cvm_page->cpu[cpu->index], .start = gpa & ~(PAGE_SIZE - 1), .asked = bytes,
		.end = (gpa + bytes + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1), .private = flags & CONVERT_PRIVATE,
	};
	enum convert_status status = CONVERT_LEAKED;

	*result = 0;
	if (!find_pages(job.start, job.end, &job.first_page))
		return CONVERT_NOT_MANAGED;
	job.record->start = job.start;
	job.record->end = job.end;
	job.record->to_private = job.private;
	set_step(&job, STEP_BEGUN);
	lock_pages(&job);
	if (leaked_any(job.start, job.end))
		unlock_pages(&job, false);
	else
		status = run(&job, gpa, flags & CONVERT_HYPERCALL_FIRST, result);
	set_step(&job, STEP_NONE);
	return status;
}
