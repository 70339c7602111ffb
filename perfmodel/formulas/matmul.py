r"""Matrix products: arithmetic and the least memory traffic."""

from perfmodel.formulas._registry import formula

__all__ = ["matmul_bytes", "matmul_flops"]


@formula
def matmul_flops(m, n, k, count=1.0, flop_per_mac=2.0):
    r"""Arithmetic of `count` products of an (m, k) by a (k, n) matrix.

    .. math:: F = 2\,c\,m\,n\,k

    Symbols      m  m [1] rows of the result;  n  n [1] columns of the result;  k  k [1] summed dimension;
                 c  count [1] products of that shape;  \phi  flop_per_mac [flop] one multiply and one add;
                 returns [flop]
    Valid for    m >= 1; n >= 1; k >= 1; count >= 0
    Monotone     m +; n +; k +; count +
    Limits       count = 0 -> 0
    Source       Golub, Van Loan 2013, "Matrix Computations", section 1.1.11
    Example      >>> matmul_flops(2, 3, 4)
                 48.0
    """
    return flop_per_mac * count * m * n * k


@formula
def matmul_bytes(m, n, k, count=1.0, bytes_per_element=2.0):
    r"""Least memory traffic of `count` matrix products: both operands read and the result written once.

    .. math:: B = c\,b\,(m k + k n + m n)

    Symbols      m  m [1] rows of the result;  n  n [1] columns of the result;  k  k [1] summed dimension;
                 c  count [1] products of that shape;  b  bytes_per_element [B] element size;  returns [B]
    Assumptions  every operand crosses memory once, which holds while a block of it stays in cache
    Valid for    m >= 1; n >= 1; k >= 1; count >= 0
    Monotone     m +; n +; k +; count +
    Limits       count = 0 -> 0
    Source       Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785 (compulsory traffic)
    """
    return bytes_per_element * count * (m * k + k * n + m * n)
