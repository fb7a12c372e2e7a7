#include "json_fields.hpp"

#include <algorithm>
#include <cmath>

namespace gstk::impl {
namespace {

bool is_integer(const Json& value, std::int64_t minimum) {
    if (value.is_number_unsigned()) {
        const auto number = value.get<std::uint64_t>();
        return number <= static_cast<std::uint64_t>(INT64_MAX) && static_cast<std::int64_t>(number) >= minimum;
    }
    return value.is_number_integer() && value.get<std::int64_t>() >= minimum;
}

bool is_number(const Json& value, double minimum) {
    return value.is_number() && std::isfinite(value.get<double>()) && value.get<double>() >= minimum;
}

}  // namespace

std::string shorten(const Json& value) {
    const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    return text.size() <= 60 ? text : text.substr(0, 57) + "...";
}

Fields::Fields(const Json& values, const JsonFile& file, std::string place)
    : values_(values), file_(file), place_(std::move(place)) {
    if (!values.is_object())
        throw error(file_.code, "got ", place_.empty() ? file_.name : place_, " = ", shorten(values),
                    ", expected a JSON object; ", file_.remedy);
}

Error Fields::wrong(const std::string& key, const std::string& expected) const {
    const Json* value = find(key);
    return error(file_.code, "got ", value ? shorten(*value) : "nothing", " for ", name_of(key), " in ", file_.name,
                 ", expected ", expected, "; ", file_.remedy);
}

const Json& Fields::value(const std::string& key, const std::string& expected) const {
    const Json* found = find(key);
    if (!found) throw wrong(key, expected);
    return *found;
}

Fields Fields::sub(const std::string& key) const {
    return Fields(value(key, "a JSON object"), file_, name_of(key));
}

std::string Fields::text(const std::string& key) const {
    const Json& found = value(key, "a string");
    if (!found.is_string() || found.get_ref<const std::string&>().empty()) throw wrong(key, "a string");
    return found.get<std::string>();
}

std::int64_t Fields::integer(const std::string& key, std::int64_t minimum) const {
    const std::string expected = "an integer of " + std::to_string(minimum) + " or more";
    const Json& found = value(key, expected);
    if (!is_integer(found, minimum)) throw wrong(key, expected);
    return found.get<std::int64_t>();
}

double Fields::number(const std::string& key, double minimum) const {
    const std::string expected = joined("a finite number of ", minimum, " or more");
    const Json& found = value(key, expected);
    if (!is_number(found, minimum)) throw wrong(key, expected);
    return found.get<double>();
}

bool Fields::flag(const std::string& key) const {
    const Json& found = value(key, "true or false");
    if (!found.is_boolean()) throw wrong(key, "true or false");
    return found.get<bool>();
}

std::vector<std::int64_t> Fields::integers(const std::string& key, std::int64_t minimum) const {
    const std::string expected = "a list of integers of " + std::to_string(minimum) + " or more";
    const Json& found = value(key, expected);
    const auto fits = [&](const Json& item) { return is_integer(item, minimum); };
    if (!found.is_array() || !std::all_of(found.begin(), found.end(), fits)) throw wrong(key, expected);
    return found.get<std::vector<std::int64_t>>();
}

std::pair<double, double> Fields::rising_pair(const std::string& key) const {
    const Json& found = value(key, "two rising numbers");
    if (!found.is_array() || found.size() != 2 || !found[0].is_number() || !found[1].is_number())
        throw wrong(key, "two rising numbers");
    const std::pair<double, double> pair{found[0].get<double>(), found[1].get<double>()};
    if (!std::isfinite(pair.first) || !std::isfinite(pair.second) || pair.first >= pair.second)
        throw wrong(key, "two rising numbers");
    return pair;
}

void Fields::only(const std::vector<std::string>& keys) const {
    for (const auto& item : values_.items())
        if (std::find(keys.begin(), keys.end(), item.key()) == keys.end()) throw wrong(item.key(), "no such field");
}

const Json* Fields::find(const std::string& key) const {
    const auto found = values_.find(key);
    return found == values_.end() ? nullptr : &*found;
}

std::string Fields::name_of(const std::string& key) const {
    return printable(place_.empty() ? key : place_ + "." + key);
}

}  // namespace gstk::impl
