package fastpath

// The bytes depend on the compiler alone: clang 14 and llvm-strip 14 as Debian 12 has them.
//
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel,bpfeb -no-global-types -type flow -type sent -type leaves -type port -type control -cflags "-O2 -g -Wall -Werror -mcpu=v3" fastpath bpf/fastpath.bpf.c
