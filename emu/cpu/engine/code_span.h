/* Where code lies in the host's memory, in one or two pages. */
#pragma once

#include <stdint.h>

typedef struct { const uint8_t *host[2]; uint32_t size[2]; } code_span;
