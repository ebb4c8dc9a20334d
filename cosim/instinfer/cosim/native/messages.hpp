// SPDX-License-Identifier: Apache-2.0
// Included before everything else: what the simulation prints goes to the harness, not to standard output,
// which belongs to the program around it.
#pragma once

#ifdef __cplusplus
extern "C"
#endif
int instinfer_print(const char* format, ...) __attribute__((format(printf, 1, 2)));

#define VL_PRINTF instinfer_print
