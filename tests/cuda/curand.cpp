// cuRAND, as far as opening a device goes: a generator can be made and seeded, but generates nothing.

#include "emulator.h"

CUDA int curandCreateGenerator(void **generator, int) { return *generator = new char, 0; }
CUDA int curandDestroyGenerator(void *generator) { return delete static_cast<char *>(generator), 0; }
CUDA int curandSetStream(void *, void *) { return 0; }
CUDA int curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return 0; }
CUDA int curandSetGeneratorOffset(void *, unsigned long long) { return 0; }
CUDA int curandGetVersion(int *version) { return *version = 10400, 0; }
