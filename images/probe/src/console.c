#include <stdarg.h>

#include "probe.h"

static void put_text(const char *text)
{
	while (*text)
		arch_console_put(*text++);
}

static void put_number(uint64_t value, unsigned base)
{
	char digits[24];
	unsigned at = sizeof digits;

	digits[--at] = 0;
	do
		digits[--at] = "0123456789abcdef"[value % base];
	while (value /= base);
	put_text(base == 16 ? "0x" : "");
	put_text(digits + at);
}

void console_line(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	for (; *format; format++) {
		if (*format != '%') {
			arch_console_put(*format);
			continue;
		}
		format++;
		if (*format == 's')
			put_text(va_arg(list, const char *));
		else
			put_number(va_arg(list, uint64_t), *format == 'x' ? 16 : 10);
	}
	va_end(list);
	put_text("\r\n");
}
