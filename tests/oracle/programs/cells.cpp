// Values in persistent memory as C++ objects, with the words of pool.h: a cell is replaced by writing the spare one and
// then its index. With BROKEN nothing makes the value durable before the index.
#include <libpmem.h>

#include <cstdint>
#include <iostream>
#include <stdexcept>
#include <string>

template <typename Value>
class Cell {
    struct alignas(64) Slot {
        Value value;
        std::uint64_t check;
    };
    alignas(64) std::uint64_t current = 0;
    Slot slots[2] = {};

public:
    bool whole() const { return current < 2 && slots[current].check == slots[current].value * 3; }
    Value get() const { return slots[current].value; }

    void set(Value value) {
        Slot &spare = slots[1 - current];
        spare.value = value;
        spare.check = value * 3; // the bug
#ifndef BROKEN
        pmem_persist(&spare, sizeof spare);
#endif
        current = 1 - current;
        pmem_persist(&current, sizeof current);
    }
};

template <typename Object>
Object &mapped(const std::string &path) {
    std::size_t size;
    int is_pmem;
    void *at = pmem_map_file(path.c_str(), sizeof(Object), PMEM_FILE_CREATE, 0600, &size, &is_pmem);
    if (!at)
        throw std::runtime_error(std::string("cannot map ") + path + ": " + pmem_errormsg());
    return *static_cast<Object *>(at);
}

int main(int argc, char **argv) {
    try {
        auto &cell = mapped<Cell<std::uint64_t>>("/pmem/cell");
        if (argc > 1 && std::string(argv[1]) == "work") {
            cell.set(7);
            cell.set(8);
        }
        std::cout << cell.get() << (cell.whole() ? "" : " is torn") << std::endl;
        return cell.whole() ? 0 : 1;
    } catch (const std::exception &error) {
        std::cerr << error.what() << std::endl;
        return 2;
    }
}
