/* Through which view each managed page was last written: page tables lie in the image, which a reset loads anew. */
#include "confidential.h"

uint8_t *views;

/* For who holds the page's lock; the other pages of its byte are others'. */
void views_note(uint64_t page, bool shared)
{
	uint8_t bit = (uint8_t)(1u << page % 8);

	if (!views)
		return;
	if (shared)
		__atomic_fetch_or(&views[page / 8], bit, __ATOMIC_RELAXED);
	else
		__atomic_fetch_and(&views[page / 8], (uint8_t)~bit, __ATOMIC_RELAXED);
}
