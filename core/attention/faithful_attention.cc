#include "core/attention/faithful_attention.h"
