// Scratch memory, and the size of pages. Compiled once, for every instruction set.
#pragma once

#include <cstddef>

namespace hifigan {

// At least `floats` floats, 64-byte aligned, of the calling thread until its next call for the same
// purpose: what its own tasks work in, what all threads of a region share, and gradients of packed
// weights. Kept for the next call.
enum class Scratch { own, shared, packed };
float *scratch(Scratch purpose, std::size_t floats);

// Asks for huge pages under fresh memory, where the system lets programs choose: the first touch of a
// large buffer then costs a third, and that of small pages is a fifth of a training step. Only advice.
void prefer_huge_pages(void *memory, std::size_t bytes);

}  // namespace hifigan
