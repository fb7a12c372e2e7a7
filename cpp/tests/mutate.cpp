// Stands in for libFuzzer where clang is not there: the same inputs, mutated by a generator of fixed seed.
//
//     mutate SECONDS FOLDER_OF_INPUTS
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size);

int main(int count, char** arguments) {
    if (count != 3) return 2;
    std::vector<std::vector<std::uint8_t>> inputs;
    for (const auto& entry : std::filesystem::directory_iterator(arguments[2])) {
        std::ifstream file(entry.path(), std::ios::binary);
        inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    if (inputs.empty()) return 2;
    std::mt19937_64 random(20261123);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(arguments[1]));
    long runs = 0;
    for (; std::chrono::steady_clock::now() < end; ++runs) {
        auto input = inputs[random() % inputs.size()];
        for (auto changes = random() % 8 + 1; changes > 0 && !input.empty(); --changes) {
            const std::size_t at = random() % input.size();
            switch (random() % 4) {
                case 0:
                    input[at] = static_cast<std::uint8_t>(random());
                    break;
                case 1:
                    input[at] ^= static_cast<std::uint8_t>(1u << random() % 8);
                    break;
                case 2:
                    input.resize(at);
                    break;
                default:
                    input.insert(input.begin() + static_cast<std::ptrdiff_t>(at), input[at]);
                    break;
            }
        }
        LLVMFuzzerTestOneInput(input.data(), input.size());
    }
    std::printf("%ld inputs\n", runs);
    return 0;
}
