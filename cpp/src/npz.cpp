#include "npz.hpp"

#include <minizip/unzip.h>
#include <minizip/zip.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "half.hpp"

namespace gstk::impl {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{1} << 16;
constexpr std::size_t kHeaderLimit = 1 << 16;
constexpr std::size_t kMostAxes = 32;

struct Close {
    void operator()(void* archive) const { unzClose(archive); }
};
using Archive = std::unique_ptr<void, Close>;

Archive open(const std::string& path) {
    Archive archive(unzOpen64(path.c_str()));
    if (!archive) throw error(GSTK_ERROR_CASE, "cannot read ", path, ", expected an .npz file; check the path");
    return archive;
}

bool find(const Archive& archive, const std::string& key) {
    return unzLocateFile(archive.get(), (key + ".npy").c_str(), 1) == UNZ_OK;
}

std::string place(const std::string& path, const std::string& key) {
    return "'" + key + "' of " + path;
}

// The text after `'key':` in the header, without leading blanks.
std::string field(const std::string& header, const std::string& key, const std::string& where) {
    const auto found = header.find("'" + key + "'");
    const auto colon = found == std::string::npos ? found : header.find(':', found);
    const auto begin = colon == std::string::npos ? colon : header.find_first_not_of(" \t", colon + 1);
    if (begin == std::string::npos)
        throw error(GSTK_ERROR_CASE, "got an npy header without '", key, "' in ", where, "; make the file anew");
    return header.substr(begin);
}

std::vector<std::int64_t> shape_of(const std::string& text, const std::string& where) {
    std::vector<std::int64_t> shape;
    std::istringstream in(text);
    in.imbue(std::locale::classic());  // a host's may take the comma for part of a number
    char mark = 0;
    if (in >> mark && mark == '(') {
        while (shape.size() <= kMostAxes && in >> std::ws && in.peek() != ')') {
            std::int64_t side = -1;
            if (!(in >> side) || side < 0) break;
            shape.push_back(side);
            if (in >> std::ws && in.peek() == ',') in.get();
        }
        if (in && in.peek() == ')' && shape.size() <= kMostAxes) return shape;
    }
    throw error(GSTK_ERROR_CASE, "got the shape ", printable(text, 40), " in ", where, ", expected sides of 0 or more");
}

struct Element {
    gstk_dtype dtype;
    std::size_t size;
    bool swapped, is_half, is_bool;
};

Element element_of(const std::string& text, const std::string& where) {
    static const struct {
        const char* name;
        gstk_dtype dtype;
    } known[] = {{"b1", GSTK_UINT8}, {"u1", GSTK_UINT8},   {"i1", GSTK_INT8},    {"u2", GSTK_UINT16},
                 {"i2", GSTK_INT16}, {"u4", GSTK_UINT32},  {"i4", GSTK_INT32},   {"u8", GSTK_UINT64},
                 {"i8", GSTK_INT64}, {"f2", GSTK_FLOAT32}, {"f4", GSTK_FLOAT32}, {"f8", GSTK_FLOAT64}};
    // '<f4': byte order, kind, bytes
    if (text.size() >= 5 && text[0] == '\'' && text[4] == '\'' && std::strchr("<>=|", text[1]))
        for (const auto& entry : known)
            if (text.compare(2, 2, entry.name) == 0) {
                const std::size_t size = static_cast<std::size_t>(text[3] - '0');
                return {entry.dtype, size, text[1] == '>' && size > 1, text.compare(2, 2, "f2") == 0, text[2] == 'b'};
            }
    throw error(GSTK_ERROR_CASE, "got the dtype ", printable(text.substr(0, text.find(',')), 20), " in ", where,
                ", expected numbers or booleans");
}

// Elements in the order of the last axis fastest, from that of the first fastest.
std::vector<char> from_fortran(const std::vector<char>& bytes, const std::vector<std::int64_t>& shape,
                               std::size_t size) {
    std::vector<char> result(bytes.size());
    std::vector<std::int64_t> index(shape.size(), 0);
    for (std::size_t to = 0; to < bytes.size(); to += size) {
        std::size_t from = 0;
        for (std::size_t a = shape.size(); a-- > 0;)
            from = from * static_cast<std::size_t>(shape[a]) + static_cast<std::size_t>(index[a]);
        std::memcpy(&result[to], &bytes[from * size], size);
        for (std::size_t a = shape.size(); a-- > 0;) {
            if (++index[a] < shape[a]) break;
            index[a] = 0;
        }
    }
    return result;
}

std::vector<char> widened(const std::vector<char>& halves) {
    std::vector<char> floats(2 * halves.size());
    for (std::size_t i = 0; i < halves.size() / 2; ++i) {
        std::uint16_t half;
        std::memcpy(&half, &halves[2 * i], 2);
        const float value = from_half(half);
        std::memcpy(&floats[4 * i], &value, 4);
    }
    return floats;
}

}  // namespace

Array parse_npy(const std::vector<char>& npy, const std::string& where) {
    const auto byte = [&](std::size_t i) { return static_cast<std::size_t>(static_cast<unsigned char>(npy[i])); };
    if (npy.size() < 12 || std::memcmp(npy.data(), "\x93NUMPY", 6) != 0 || (npy[6] != 1 && npy[6] != 2))
        throw error(GSTK_ERROR_CASE, "got no npy array of version 1 or 2 in ", where, "; make the file anew");
    const std::size_t begin = npy[6] == 1 ? 10 : 12;
    std::size_t length = byte(8) | byte(9) << 8;
    if (npy[6] == 2) length |= byte(10) << 16 | byte(11) << 24;
    if (length > kHeaderLimit || begin + length > npy.size())
        throw error(GSTK_ERROR_CASE, "got a damaged npy header in ", where, "; make the file anew");
    const std::string header(npy.data() + begin, length);
    const Element element = element_of(field(header, "descr", where), where);
    const bool is_fortran = field(header, "fortran_order", where).compare(0, 4, "True") == 0;
    Array array{element.dtype, shape_of(field(header, "shape", where), where), {}};
    const std::size_t payload = npy.size() - begin - length;
    // In floating point first: the product of a liar's sides overflows any integer.
    double promised = static_cast<double>(element.size);
    for (const auto side : array.shape) promised *= static_cast<double>(side);
    if (promised != static_cast<double>(payload))
        throw error(GSTK_ERROR_CASE, "got ", payload, " bytes in ", where, ", expected ", promised,
                    "; the file is truncated or altered, copy it anew");
    array.bytes.assign(npy.end() - static_cast<std::ptrdiff_t>(payload), npy.end());
    if (element.swapped)
        for (std::size_t i = 0; i < payload; i += element.size)
            std::reverse(&array.bytes[i], &array.bytes[i] + element.size);
    if (element.is_bool)
        std::transform(array.bytes.begin(), array.bytes.end(), array.bytes.begin(), [](char c) { return c != 0; });
    if (is_fortran && array.shape.size() > 1) array.bytes = from_fortran(array.bytes, array.shape, element.size);
    if (element.is_half) array.bytes = widened(array.bytes);
    return array;
}

Array read_array(const std::string& path, const std::string& key) {
    const Archive archive = open(path);
    const std::string where = place(path, key);
    if (!find(archive, key)) throw error(GSTK_ERROR_CASE, path, " holds no '", key, "'; is it a case, not a result?");
    if (unzOpenCurrentFile(archive.get()) != UNZ_OK)
        throw error(GSTK_ERROR_CASE, "cannot read ", where, "; expected a member that is stored or deflated");
    // Memory grows as data arrives, so a directory that lies about a huge array costs nothing.
    std::vector<char> content;
    int got = 0;
    do {
        const std::size_t size = content.size();
        content.resize(size + kChunkBytes);
        got = unzReadCurrentFile(archive.get(), content.data() + size, static_cast<unsigned>(kChunkBytes));
        content.resize(size + static_cast<std::size_t>(std::max(got, 0)));
    } while (got > 0);
    if (got < 0 || unzCloseCurrentFile(archive.get()) != UNZ_OK)
        throw error(GSTK_ERROR_CASE, "cannot read ", where, "; the file is truncated or altered, copy it anew");
    return parse_npy(content, where);
}

bool has_array(const std::string& path, const std::string& key) {
    return find(open(path), key);
}

void write_array(const std::string& path, const std::string& key, const Array& array) {
    static const char* const names[] = {"|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f4", "<f8"};
    std::string header = std::string("{'descr': '") + names[array.dtype - 1] + "', 'fortran_order': False, 'shape': (";
    for (const auto side : array.shape) header += std::to_string(side) + ", ";
    header += "), }";
    header.append(63 - (10 + header.size()) % 64, ' ');
    header += '\n';
    const auto length = static_cast<unsigned>(header.size());
    const std::string magic{
        '\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0, static_cast<char>(length & 255), static_cast<char>(length >> 8)};
    const std::string prefix = magic + header;
    const zipFile archive = zipOpen64(path.c_str(), APPEND_STATUS_CREATE);
    bool good = archive && zipOpenNewFileInZip64(archive, (key + ".npy").c_str(), nullptr, nullptr, 0, nullptr, 0,
                                                 nullptr, Z_DEFLATED, Z_BEST_SPEED, 1) == ZIP_OK;
    good = good && zipWriteInFileInZip(archive, prefix.data(), static_cast<unsigned>(prefix.size())) == ZIP_OK;
    for (std::size_t done = 0; good && done < array.bytes.size(); done += kChunkBytes) {
        const std::size_t size = std::min(kChunkBytes, array.bytes.size() - done);
        good = zipWriteInFileInZip(archive, array.bytes.data() + done, static_cast<unsigned>(size)) == ZIP_OK;
    }
    good = good && zipCloseFileInZip(archive) == ZIP_OK;
    if (archive) good = zipClose(archive, nullptr) == ZIP_OK && good;
    if (!good) throw error(GSTK_ERROR_OUTPUT, "cannot write ", path, "; check that its folder can be written to");
}

}  // namespace gstk::impl
