/* What happened to a page, told from its content alone. The rules stand in PROTOCOL.md ("Diagnosis"). */
#include "probe.h"

enum content { OWN, MOVED, OTHER, FOREIGN, ZERO, GARBAGE, CONTENTS };
enum { FEW_LINES = 8 };

struct survey {
	uint32_t bad, count[CONTENTS], first, last;
	uint64_t generation;
	bool mixed;
};

static bool line_is(const uint64_t *line, const uint64_t *other)
{
	return !memcmp(line, other, LINE_SIZE);
}

static enum content content_of(const uint64_t *line, uint64_t line_gpa, uint64_t seed)
{
	static const uint64_t zero[WORDS_PER_LINE];
	uint64_t valid[WORDS_PER_LINE];

	if (line_is(line, zero))
		return ZERO;
	if (line[0] % LINE_SIZE || line[1] >> 32)
		return GARBAGE;
	pattern_line(line[0], line[1], line[2], valid);
	if (!line_is(line, valid))
		return GARBAGE;
	if (line[2] != seed)
		return FOREIGN;
	if (line[0] == line_gpa)
		return OWN;
	return (line[0] ^ line_gpa) < PAGE_SIZE ? MOVED : OTHER;
}

static void note_line(struct survey *survey, uint32_t i, enum content content, uint64_t generation)
{
	if (!survey->bad++)
		survey->first = i;
	survey->last = i;
	survey->count[content]++;
	if (content == OWN) {
		survey->mixed |= survey->count[OWN] > 1 && generation != survey->generation;
		survey->generation = generation;
	}
}

static bool is_edge_run(const struct survey *survey)
{
	bool run = survey->last - survey->first + 1 == survey->bad;

	return survey->bad > 1 && run && (survey->first == 0 || survey->last == LINES_PER_PAGE - 1);
}

static enum content dominant(const struct survey *survey)
{
	enum content best = OWN;

	for (enum content content = OWN; content < CONTENTS; content++)
		if (survey->count[content] > survey->count[best])
			best = content;
	return best;
}

static enum damage_kind judge(const struct survey *survey, uint64_t generation)
{
	static const enum damage_kind whole[CONTENTS] = {
		[OTHER] = DAMAGE_SWAPPED, [FOREIGN] = DAMAGE_FOREIGN, [ZERO] = DAMAGE_ZEROED, [GARBAGE] = DAMAGE_RANDOM,
	};
	enum content content = dominant(survey);

	if (content == MOVED)
		return DAMAGE_SHIFTED;
	if (content == OWN && survey->count[OWN] == LINES_PER_PAGE && !survey->mixed)
		return survey->generation < generation ? DAMAGE_STALE : DAMAGE_NEWER;
	if (content == OWN && (survey->bad > FEW_LINES || is_edge_run(survey)))
		return DAMAGE_TORN;
	return survey->bad <= FEW_LINES ? DAMAGE_LINE : whole[content];
}

static unsigned bits_wrong(const uint64_t *a, const uint64_t *b)
{
	unsigned bits = 0;

	for (unsigned i = 0; i < WORDS_PER_LINE; i++)
		for (uint64_t wrong = a[i] ^ b[i]; wrong; wrong &= wrong - 1)
			bits++;
	return bits;
}

static void describe(struct damage *damage, uint64_t page_gpa, uint64_t generation, uint64_t seed, uint32_t first)
{
	uint64_t line_gpa = page_gpa + first * LINE_SIZE;
	enum content content;

	memcpy(damage->found, (const void *)line_gpa, LINE_SIZE);
	pattern_line(line_gpa, generation, seed, damage->expected);
	content = content_of(damage->found, line_gpa, seed);
	damage->gpa = page_gpa;
	damage->first_bad_gpa = line_gpa;
	damage->expected_generation = (uint32_t)generation;
	damage->found_generation = content < ZERO ? (uint32_t)damage->found[1] : 0;
	damage->other_gpa = content < ZERO ? damage->found[0] : 0;
}

enum damage_kind diagnose(uint64_t page_gpa, uint64_t generation, uint64_t seed, struct damage *damage)
{
	const uint64_t *line = (const uint64_t *)page_gpa;
	struct survey survey = { 0 };
	uint64_t good[WORDS_PER_LINE];

	for (uint32_t i = 0; i < LINES_PER_PAGE; i++, line += WORDS_PER_LINE) {
		uint64_t line_gpa = page_gpa + i * LINE_SIZE;

		pattern_line(line_gpa, generation, seed, good);
		if (!line_is(line, good))
			note_line(&survey, i, content_of(line, line_gpa, seed), line[1]);
	}
	if (!survey.bad)
		return DAMAGE_NONE;
	describe(damage, page_gpa, generation, seed, survey.first);
	damage->lines = survey.bad;
	damage->kind = judge(&survey, generation);
	if (survey.bad == 1 && bits_wrong(damage->expected, damage->found) == 1)
		damage->kind = DAMAGE_BIT;
	return damage->kind;
}
