#include "onnx_messages.hpp"

#include <algorithm>
#include <stdexcept>

#include "error.hpp"

namespace gstk::impl {
namespace {

constexpr std::uint64_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;
constexpr std::uint64_t kIntAttribute = 2;
constexpr std::uint64_t kLongestHeader = 20;  // a field's number and the length of its value

[[noreturn]] void no_onnx(std::uint64_t at) {
    throw std::runtime_error(joined("got no field at byte ", at, ", expected an ONNX file"));
}

// The number at `at` of a field's header, which is moved behind it.
std::uint64_t varint(const std::string& header, std::size_t& at, std::uint64_t begin) {
    std::uint64_t value = 0;
    for (int shift = 0; at < header.size() && shift < 70; shift += 7) {
        const auto byte = static_cast<unsigned char>(header[at++]);
        if (shift < 64) value |= static_cast<std::uint64_t>(byte & 127) << shift;
        if (byte < 128) return value;
    }
    no_onnx(begin);
}

std::string encoded(std::uint64_t value) {
    std::string result;
    for (; value > 127; value >>= 7) result += static_cast<char>((value & 127) | 128);
    return result + static_cast<char>(value);
}

}  // namespace

ReadBytes bytes_of(const std::string& text) {
    return [&text](std::uint64_t begin, std::uint64_t end) { return text.substr(begin, end - begin); };
}

std::vector<Field> fields(const ReadBytes& read, std::uint64_t begin, std::uint64_t end) {
    std::vector<Field> found;
    for (std::uint64_t first = begin; first < end;) {
        const std::string header = read(first, std::min(end, first + kLongestHeader));
        std::size_t at = 0;
        const std::uint64_t key = varint(header, at, first);
        Field field{key >> 3, first, 0, 0, 0};
        std::uint64_t length = 0;
        switch (key & 7) {
            case kVarint: {
                field.value = first + at;
                field.integer = varint(header, at, first);
                field.end = first + at;
                break;
            }
            case kBytes:
                length = varint(header, at, first);
                [[fallthrough]];
            case kFixed32:
            case kFixed64:
                if ((key & 7) != kBytes) length = (key & 7) == kFixed32 ? 4 : 8;
                field.value = first + at;
                if (length > end - std::min(end, field.value)) no_onnx(first);
                field.end = field.value + length;
                break;
            default:
                no_onnx(first);
        }
        found.push_back(field);
        first = field.end;
    }
    return found;
}

std::string number_field(std::uint64_t number, std::uint64_t value) {
    return encoded(number << 3 | kVarint) + encoded(value);
}

std::string bytes_field(std::uint64_t number, const std::string& value) {
    return encoded(number << 3 | kBytes) + encoded(value.size()) + value;
}

std::string node_field(const std::string& kind, const std::vector<std::string>& inputs, const std::string& output,
                       const Attributes& attributes) {
    std::string content;
    for (const auto& name : inputs) content += bytes_field(1, name);
    content += bytes_field(2, output) + bytes_field(4, kind);
    for (const auto& [name, value] : attributes)
        content += bytes_field(5, bytes_field(1, name) + number_field(3, value) + number_field(20, kIntAttribute));
    return bytes_field(1, content);
}

}  // namespace gstk::impl
