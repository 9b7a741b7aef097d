//! An append log in Rust over libpmem's C interface, with the words of pool.h.
//! With `--cfg broken` nothing makes an entry durable before the count names it.
use std::ffi::{c_void, CString};
use std::os::raw::{c_char, c_int};
use std::{env, process, ptr};

#[link(name = "pmem")]
extern "C" {
    fn pmem_map_file(
        path: *const c_char,
        length: usize,
        flags: c_int,
        mode: u32,
        mapped: *mut usize,
        is_pmem: *mut c_int,
    ) -> *mut c_void;
    fn pmem_persist(address: *const c_void, length: usize);
}

const PMEM_FILE_CREATE: c_int = 1;
const MOST: usize = 8;

#[repr(C, align(64))]
struct Entry {
    amount: u64,
    check: u64,
}

#[repr(C, align(64))]
struct Ledger {
    count: u64,
    entries: [Entry; MOST],
}

fn persist<T>(what: &T) {
    unsafe { pmem_persist(what as *const T as *const c_void, std::mem::size_of::<T>()) }
}

impl Ledger {
    fn append(&mut self, amount: u64) {
        let entry = &mut self.entries[self.count as usize];
        entry.amount = amount;
        entry.check = !amount; // the bug
        if !cfg!(broken) {
            persist(entry);
        }
        self.count += 1;
        persist(&self.count);
    }

    fn is_whole(&self) -> bool {
        let count = self.count as usize;
        count <= MOST && self.entries[..count].iter().all(|entry| entry.check == !entry.amount)
    }
}

fn main() {
    let path = CString::new("/pmem/ledger").unwrap();
    let size = std::mem::size_of::<Ledger>();
    let (mut mapped, mut is_pmem) = (0, 0);
    let ledger = unsafe {
        let at = pmem_map_file(path.as_ptr(), size, PMEM_FILE_CREATE, 0o600, &mut mapped, &mut is_pmem);
        assert!(at != ptr::null_mut(), "cannot map the ledger");
        &mut *(at as *mut Ledger)
    };
    if env::args().nth(1).as_deref() == Some("work") {
        ledger.append(100);
        ledger.append(200);
    }
    println!("{} entries, is_pmem {}", ledger.count, is_pmem);
    process::exit(if ledger.is_whole() { 0 } else { 1 });
}
