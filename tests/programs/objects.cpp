/* C++ without exceptions: static objects in order, virtual functions, containers, new and delete. */
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include <stdio.h>

struct Shape {
    virtual ~Shape() { printf("~Shape %d\n", area()); }
    virtual int area() const { return 0; }
};

struct Square final : Shape {
    explicit Square(int side) : side(side) {}
    ~Square() override { printf("~Square %d\n", area()); }
    int area() const override { return side * side; }
    int side;
};

struct Announced {
    explicit Announced(const char *name) : name(name) { printf("+%s\n", name); }
    ~Announced() { printf("-%s\n", name); }
    const char *name;
};

static Announced first("first"), second("second");

static int counted() {
    static Announced once("once");
    static int calls = 0;
    return ++calls;
}

int main() {
    Shape *shape = new Square(3);
    printf("%d\n", shape->area());
    delete shape;
    std::vector<int> numbers;
    for (int i = 0; i < 100; i++)
        numbers.push_back(i * 37 % 101);
    std::sort(numbers.begin(), numbers.end());
    printf("%d %d %zu\n", numbers.front(), numbers.back(), numbers.size());
    std::array<std::uint64_t, 3> small{3, 1, 2};
    printf("%d %d\n", (int)*std::max_element(small.begin(), small.end()), counted() + counted());
}
