"""Programs that use a feature of CPUID: machine code, made by GNU as from the text beside it."""

from __future__ import annotations

# CR4.OSXSAVE and CR4.PKE, XCR0 = 203h; leaves ECX and EDX zero.
_STATES = "0f20e181c9000044000f22e131c931d2b8030200000f01d1"

WORKS: dict[str, tuple[str, int]] = {
    # fninit; fld1; fld1; faddp; push 0; fistp dword ptr [rsp]; pop rax
    "FPU": ("dbe3d9e8d9e8dec16a00db1c2458", 2),
    # rdtsc; mov ecx,eax; rdtsc; cmp eax,ecx; seta al; movzx eax,al
    "TSC": ("0f3189c10f3139c80f97c00fb6c0", 1),
    # mov ecx,0xc0000103; mov eax,77; xor edx,edx; wrmsr; xor eax,eax; rdmsr
    "MSR": ("b9030100c0b84d00000031d20f3031c00f32", 0x4D),
    # mov rax,cr4; and eax,0x20
    "PAE": ("0f20e083e020", 0x20),
    # mov rax,cr4; or eax,0x40; mov cr4,rax; mov rax,cr4; and eax,0x40
    "MCE": ("0f20e083c8400f22e00f20e083e040", 0x40),
    # xor eax,eax; xor edx,edx; mov ebx,5; mov ecx,6; push 0; cmpxchg8b [rsp]; pop rax
    "CX8": ("31c031d2bb05000000b9060000006a000fc70c2458", 5),
    # mov ecx,0x174; mov eax,8; xor edx,edx; wrmsr; mov ecx,0x175; mov eax,0x180000; wrmsr; mov ecx,0x176; lea
    # rax,[rip+3f]; wrmsr; sysenter; 3: mov eax,4
    "SEP": (
        "b974010000b80800000031d20f30b975010000b8000018000f30b976010000488d05040000000f300f34b804000000",
        4,
    ),
    # mov ecx,0xfe; rdmsr; and eax,0xff; push rax; mov ecx,0x2ff; mov eax,0xc06; xor edx,edx; wrmsr; xor eax,eax;
    # rdmsr; pop rcx; add eax,ecx
    "MTRR": ("b9fe0000000f3225ff00000050b9ff020000b8060c000031d20f3031c00f325901c8", 0xC0E),
    # mov rax,cr4; or eax,0x80; mov cr4,rax; mov rax,cr4; and eax,0x80
    "PGE": ("0f20e00d800000000f22e00f20e02580000000", 0x80),
    # mov ecx,0x179; rdmsr; and eax,0xff
    "MCA": ("b9790100000f3225ff000000", 0xA),
    # mov ecx,9; xor eax,eax; cmovz eax,ecx
    "CMOV": ("b90900000031c00f44c1", 9),
    # mov ecx,0x277; mov eax,0x01010101; mov edx,eax; wrmsr; xor eax,eax; rdmsr
    "PAT": ("b977020000b80101010189c20f3031c00f32", 0x1010101),
    # clflush [rsp]; mov eax,1; cpuid; movzx eax,bh
    "CLFSH": ("0fae3c24b8010000000fa20fb6c7", 8),
    # mov eax,3; movd mm0,eax; paddd mm0,mm0; movd eax,mm0; emms
    "MMX": ("b8030000000f6ec00ffec00f7ec00f77", 6),
    # mov eax,7; movd xmm0,eax; fxsave [0x150000]; xorps xmm0,xmm0; fxrstor [0x150000]; movd eax,xmm0
    "FXSR": ("b807000000660f6ec00fae0425000015000f57c00fae0c2500001500660f7ec0", 7),
    # mov eax,0x3f800000; movd xmm0,eax; addps xmm0,xmm0; movd eax,xmm0
    "SSE": ("b80000803f660f6ec00f58c0660f7ec0", 0x40000000),
    # mov eax,4; movd xmm0,eax; paddq xmm0,xmm0; movd eax,xmm0
    "SSE2": ("b804000000660f6ec0660fd4c0660f7ec0", 8),
    # mov eax,0x3f800000; movd xmm0,eax; pshufd xmm0,xmm0,0; haddps xmm0,xmm0; movd eax,xmm0
    "SSE3": ("b80000803f660f6ec0660f70c000f20f7cc0660f7ec0", 0x40000000),
    # mov eax,3; movd xmm0,eax; pclmulqdq xmm0,xmm0,0; movd eax,xmm0
    "PCLMULQDQ": ("b803000000660f6ec0660f3a44c000660f7ec0", 5),
    # mov eax,0x01020304; movd xmm0,eax; pxor xmm1,xmm1; pshufb xmm0,xmm1; movd eax,xmm0
    "SSSE3": ("b804030201660f6ec0660fefc9660f3800c1660f7ec0", 0x4040404),
    # xor eax,eax; xor edx,edx; mov ebx,5; mov ecx,6; and rsp,-16; push 0; push 0; cmpxchg16b [rsp]; pop rax; pop rcx;
    # add eax,ecx
    "CMPXCHG16B": ("31c031d2bb05000000b9060000004883e4f06a006a00480fc70c24585901c8", 0xB),
    # mov eax,7; movd xmm0,eax; pmulld xmm0,xmm0; movd eax,xmm0
    "SSE4.1": ("b807000000660f6ec0660f3840c0660f7ec0", 0x31),
    # mov eax,-1; xor ecx,ecx; crc32 eax,cl
    "SSE4.2": ("b8ffffffff31c9f20f38f0c1", 0xAD82ACAE),
    # mov dword ptr [0x150000],0x01020304; movbe eax,[0x150000]
    "MOVBE": ("c7042500001500040302010f38f0042500001500", 0x4030201),
    # mov ecx,0xff; popcnt eax,ecx
    "POPCNT": ("b9ff000000f30fb8c1", 8),
    # pxor xmm0,xmm0; pxor xmm1,xmm1; aesenc xmm0,xmm1; movd eax,xmm0
    "AES": ("660fefc0660fefc9660f38dcc1660f7ec0", 0x63636363),
    # rdrand eax; setc al; movzx eax,al
    "RDRAND": ("0fc7f00f92c00fb6c0", 1),
    # rdseed eax; setc al; movzx eax,al
    "RDSEED": ("0fc7f80f92c00fb6c0", 1),
    # mov eax,1; cpuid; shr ecx,31; mov eax,ecx
    "HYPERVISOR": ("b8010000000fa2c1e91f89c8", 1),
    # mov rax,cr4; or eax,0x10000; mov cr4,rax; mov eax,0x1234; wrfsbase rax; xor eax,eax; rdfsbase rax
    "FSGSBASE": ("0f20e00d000001000f22e0b834120000f3480faed031c0f3480faec0", 0x1234),
    # mov ecx,0xf0; mov edx,0xff; andn eax,ecx,edx
    "BMI1": ("b9f0000000baff000000c4e270f2c2", 0xF),
    # mov ecx,5; mov edx,0x0f0; pdep eax,ecx,edx
    "BMI2": ("b905000000baf0000000c4e273f5c2", 0x50),
    # mov dword ptr [0x150000],0x11223344; mov esi,0x150000; mov edi,0x150100; mov ecx,4; rep movsb; mov
    # eax,[0x150100]
    # mov eax,1; mov ecx,2; clc; adcx eax,ecx; stc; adox eax,ecx; stc; adcx eax,ecx
    "ADX": ("b801000000b902000000f8660f38f6c1f9f30f38f6c1f9660f38f6c1", 8),
    # clflushopt [rsp]; mov eax,1
    "CLFLUSHOPT": ("660fae3c24b801000000", 1),
    # clwb [rsp]; mov eax,1
    "CLWB": ("660fae3424b801000000", 1),
    # with states: mov eax,9; movd xmm0,eax; xor edx,edx; mov eax,3; xsaveopt [0x150000]; xorps xmm0,xmm0; xrstor
    # [0x150000]; movd eax,xmm0
    "XSAVEOPT": (_STATES + "b809000000660f6ec031d2b8030000000fae3425000015000f57c00fae2c2500001500660f7ec0", 9),
    # with states: mov eax,9; movd xmm0,eax; xor edx,edx; mov eax,3; xsave [0x150000]; xorps xmm0,xmm0; xrstor
    # [0x150000]; movd eax,xmm0
    "XSAVE": (_STATES + "b809000000660f6ec031d2b8030000000fae2425000015000f57c00fae2c2500001500660f7ec0", 9),
    # with states: mov ecx,1; xgetbv; and eax,0xfffffdfc
    "XGETBV1": (_STATES + "b9010000000f01d025fcfdffff", 0),
    # with states: fninit; fld1; xor edx,edx; mov eax,1; xsave [0x150000]; fninit; mov eax,1; xrstor [0x150000]; push
    # 0; fistp dword ptr [rsp]; pop rax
    "x87-state": (_STATES + "dbe3d9e831d2b8010000000fae242500001500dbe3b8010000000fae2c25000015006a00db1c2458", 1),
    # with states: xorps xmm0,xmm0; xor edx,edx; mov eax,2; xsave [0x150000]; mov eax,[0x150200]; and eax,2
    "SSE-state": (_STATES + "0f57c031d2b8020000000fae2425000015008b04250002150083e002", 2),
    # with states: xor ecx,ecx; xor edx,edx; mov eax,0x54; wrpkru; mov eax,0x200; xsave [0x150000]; xor eax,eax;
    # wrpkru; mov eax,0x200; xrstor [0x150000]; xor ecx,ecx; rdpkru
    "PKRU-state": (
        _STATES + "31c931d2b8540000000f01efb8000200000fae24250000150031c00f01efb8000200000fae2c250000150031c90f01ee",
        0x54,
    ),
    # mov ecx,0xc0000080; rdmsr; or eax,1; wrmsr; mov ecx,0xc0000081; xor eax,eax; mov edx,8; wrmsr; mov
    # ecx,0xc0000082; lea rax,[rip+3f]; xor edx,edx; wrmsr; syscall; 3: mov eax,3
    "SYSCALL": (
        "b9800000c00f3283c8010f30b9810000c031c0ba080000000f30b9820000c0488d050600000031d20f300f05b803000000",
        3,
    ),
    # mov ecx,0xc0000103; mov eax,77; xor edx,edx; wrmsr; rdtscp; mov eax,ecx
    "RDTSCP": ("b9030100c0b84d00000031d20f300f01f989c8", 0x4D),
    # mov rax,0x100000000; shr rax,32
    "LM": ("48b8000000000100000048c1e820", 1),
    # stc; lahf; shr eax,8; and eax,1
    "LAHF": ("f99fc1e80883e001", 1),
    # mov ecx,1; lzcnt eax,ecx
    "LZCNT": ("b901000000f30fbdc1", 0x1F),
}
"""Code by feature, and what EAX holds behind it."""

ABSENT: dict[str, dict[str, str]] = {
    "MONITOR": {
        "monitor": "0f01c8",
        "mwait": "0f01c9",
    },
    "VMX": {
        "vmcall": "0f01c1",
        "vmxon [rsp]": "f30fc73424",
        "vmread rax,rcx": "0f78c8",
        "vmlaunch": "0f01c2",
    },
    "FMA": {
        "vfmadd132ps xmm0,xmm1,xmm2": "c4e27198c2",
    },
    "AVX": {
        "vaddps xmm0,xmm1,xmm2": "c5f058c2",
        "vpxor xmm8,xmm9,xmm10": "c44131efc2",
        "vmovups xmm0,[rsp]": "c5f8100424",
        "vzeroupper": "c5f877",
        "vaddps ymm0,ymm1,ymm2": "c5f458c2",
        "vpinsrb xmm0,xmm1,eax,1": "c4e37120c001",
        "vbroadcastss xmm0,[rsp]": "c4e279180424",
        "vmovd eax,xmm0": "c5f97ec0",
        "vldmxcsr [rsp]": "c5f8ae1424",
    },
    "F16C": {
        "vcvtph2ps xmm0,xmm1": "c4e27913c1",
    },
    "HLE": {
        "xtest": "0f01d6",
    },
    "RTM": {
        "xbegin 1f; 1: nop": "c7f80000000090",
        "xend": "0f01d5",
    },
    "AVX2": {
        "vpaddd ymm0,ymm1,ymm2": "c5f5fec2",
        "vpbroadcastd xmm0,xmm1": "c4e27958c1",
        "vpgatherdd xmm0,[rsp+xmm1*1],xmm2": "c4e26990040c",
    },
    "INVPCID": {
        "invpcid rax,[rsp]": "660f38820424",
    },
    "AVX512F": {
        "vaddps zmm0,zmm1,zmm2": "62f1744858c2",
        "vpternlogd xmm0,xmm1,xmm2,1": "62f3750825c201",
    },
    "AVX512DQ": {
        "kmovb k1,eax": "c5f992c8",
        "vpmullq xmm0,xmm1,xmm2": "62f2f50840c2",
    },
    "AVX512BW": {
        "kmovd k1,eax": "c5fb92c8",
    },
    "AVX512CD": {
        "vplzcntd zmm0,zmm1": "62f27d4844c1",
    },
    "AVX512VL": {
        "vmovdqu32 xmm17,xmm18": "62a17e086fca",
    },
    "SHA": {
        "sha1nexte xmm0,xmm1": "0f38c8c1",
        "sha256rnds2 xmm0,xmm1": "0f38cbc1",
    },
    "AVX512_VBMI": {
        "vpermb zmm0,zmm1,zmm2": "62f275488dc2",
    },
    "GFNI": {
        "gf2p8mulb xmm0,xmm1": "660f38cfc1",
    },
    "VAES": {
        "vaesenc ymm0,ymm1,ymm2": "c4e275dcc2",
    },
    "VPCLMULQDQ": {
        "vpclmulqdq ymm0,ymm1,ymm2,0": "c4e37544c200",
    },
    "RDPID": {
        "rdpid rax": "f30fc7f8",
    },
    "XSAVEC": {
        "xsavec [0x150000]": "0fc7242500001500",
    },
    "XSAVES": {
        "xsaves [0x150000]": "0fc72c2500001500",
    },
    "SVM": {
        "vmrun": "0f01d8",
        "vmmcall": "0f01d9",
        "clgi": "0f01dd",
        "stgi": "0f01dc",
        "skinit": "0f01de",
    },
    "SSE4A": {
        "extrq xmm0,xmm1": "660f79c1",
        "insertq xmm0,xmm1": "f20f79c1",
        "extrq xmm0,4,4": "660f78c00404",
        "movntss [rsp],xmm0": "f30f2b0424",
    },
}
"""Instructions of features that are hidden: each must raise #UD."""
