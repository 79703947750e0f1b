/* The content of a managed page; PROTOCOL.md defines it, harness/guest/pattern.py has the same in numpy. */
#include "confidential.h"

#define LINE_STEP 0x9e3779b97f4a7c15ull
#define WORD_FLIP 0x6a09e667f3bcc908ull

uint64_t pattern_seed;

uint64_t mix64(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ull;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

uint64_t pattern_key(uint64_t page_gpa, uint64_t generation, uint64_t seed)
{
	return mix64(mix64(seed + page_gpa) + generation);
}

void pattern_line(uint64_t line_gpa, uint64_t generation, uint64_t seed, uint64_t line[WORDS_PER_LINE])
{
	uint64_t page = line_gpa & ~(PAGE_SIZE - 1);
	uint64_t a = pattern_key(page, generation, seed) + (line_gpa - page) / LINE_SIZE * LINE_STEP;

	line[0] = line_gpa;
	line[1] = generation;
	line[2] = seed;
	line[3] = a;
	line[4] = ~a;
	line[5] = a ^ line_gpa;
	line[6] = a + seed;
	line[7] = a ^ WORD_FLIP;
}

void pattern_write(uint64_t page_gpa, uint64_t generation, uint64_t seed)
{
	volatile uint64_t *word = (volatile uint64_t *)page_gpa;
	uint64_t a = pattern_key(page_gpa, generation, seed);

	for (uint64_t gpa = page_gpa; gpa < page_gpa + PAGE_SIZE; gpa += LINE_SIZE, word += WORDS_PER_LINE, a += LINE_STEP) {
		word[0] = gpa;
		word[1] = generation;
		word[2] = seed;
		word[3] = a;
		word[4] = ~a;
		word[5] = a ^ gpa;
		word[6] = a + seed;
		word[7] = a ^ WORD_FLIP;
	}
}

bool pattern_matches(uint64_t page_gpa, uint64_t generation, uint64_t seed)
{
	const volatile uint64_t *word = (const volatile uint64_t *)page_gpa;
	uint64_t a = pattern_key(page_gpa, generation, seed), wrong = 0;

	for (uint64_t gpa = page_gpa; gpa < page_gpa + PAGE_SIZE; gpa += LINE_SIZE, word += WORDS_PER_LINE, a += LINE_STEP) {
		wrong |= word[0] ^ gpa;
		wrong |= word[1] ^ generation;
		wrong |= word[2] ^ seed;
		wrong |= word[3] ^ a;
		wrong |= word[4] ^ ~a;
		wrong |= word[5] ^ a ^ gpa;
		wrong |= word[6] ^ (a + seed);
		wrong |= word[7] ^ a ^ WORD_FLIP;
	}
	return !wrong;
}
