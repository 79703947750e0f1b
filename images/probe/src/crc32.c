/* CRC-32 of IEEE 802.3 (reflected, polynomial 0xedb88320), the one of zlib. */
#include "probe.h"

uint32_t crc32(const void *bytes, size_t size)
{
	static uint32_t table[256];
	const uint8_t *in = bytes;
	uint32_t crc = ~0u;

	if (!table[1])
		for (uint32_t i = 0; i < 256; i++) {
			uint32_t value = i;

			for (int bit = 0; bit < 8; bit++)
				value = value & 1 ? 0xedb88320u ^ (value >> 1) : value >> 1;
			table[i] = value;
		}
	while (size--)
		crc = table[(crc ^ *in++) & 0xff] ^ (crc >> 8);
	return ~crc;
}
