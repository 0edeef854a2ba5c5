"""bfloat16 inside numba, which has no such type: its bits are the upper half of a float32, held in a uint16."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

_HALF = np.uint32(0x7FFF)
_ONE, _SIXTEEN = np.uint32(1), np.uint32(16)


@intrinsic
def _float_of(context, bits):
    return types.float32(types.uint32), lambda c, builder, s, args: builder.bitcast(args[0], ir.FloatType())


@intrinsic
def _bits_of(context, value):
    return types.uint32(types.float32), lambda c, builder, s, args: builder.bitcast(args[0], ir.IntType(32))


def load(stored):
    """Return a float32, or a bfloat16 held in a uint16, as float32."""
    return _plain_load(stored)


def store(value, like):
    """Return float32 ``value`` in the type of ``like``: itself, or rounded to the nearest (even) bfloat16."""
    return _plain_store(value, like)


def _plain_load(stored):
    return stored


def _plain_store(value, like):
    return value


@overload(load, inline="always")
def _overloaded_load(stored):
    if stored == types.uint16:
        return lambda stored: _float_of(np.uint32(stored) << _SIXTEEN)
    return lambda stored: stored


@overload(store, inline="always")
def _overloaded_store(value, like):
    if like == types.uint16:

        def rounded(value, like):
            bits = _bits_of(np.float32(value))
            return np.uint16((bits + _HALF + ((bits >> _SIXTEEN) & _ONE)) >> _SIXTEEN)

        return rounded
    return lambda value, like: value
