"""The bytes of one object: fetched by ranges, joined, ahead of whoever reads on, and kept a while.

An object is a row of blocks.  Blocks that are wanted together and are not there come in as few
requests as they fit, all in flight at once.  A small object comes whole with its first byte, and so
does what is announced to be read piecemeal.  Who reads on from where the last read ended is read
ahead of, as far as was read before, so that no more than half is ever in vain; beyond a run of
bytes whose end is known only once such runs were seen to follow one another.  What was read goes
before what was fetched and not read yet, and all who are read ahead of share what may be unread.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from ckptkit._io.file_states import Handle
from ckptkit._io.remote.arriving import ArrivingCopy
from ckptkit._io.remote.objects import ObjectSource, ObjectState, RemoteChanged, RetryError
from ckptkit._io.remote.requests import count, in_flight, insisting

BLOCK = 1 << 14  # bytes; of runs in any order no more than two halves of one come in vain
_LEAST = 1 << 16  # of a request; larger ones fetch more of the values between scattered headers
SMALL_OBJECT = 1 << 19  # comes whole: another trip takes longer than its bytes
MAX_REQUEST = 4 << 20
WINDOW = 96 << 20  # asked for ahead of one who reads on: a few requests always wait for their turn
_LEAST_WINDOW = 16 << 20  # of each, where many read on
_AHEAD = 32 << 20  # asked for ahead of one who seems to read on, and may stop
_STREAMS = 8  # that read on in one object at a time
_FOLLOWING = 2  # runs of known ends that follow one another show that more will
_GAP = 2 * _LEAST  # between two spans that one request brings
MAX_PIECEMEAL = 64 << 20  # fetched at once where it will be read piecemeal
_KEPT = 128 << 20  # bytes of all objects together
_UNREAD = 112 << 20  # of them, not read yet
_GAPS_OF = 16  # one of so many bytes may be of no tensor
_READING_ON = 1 << 20  # bytes in a row that show that somebody reads on


class _Chunk:
    """Blocks [first, last) of an object, which one request brings."""

    def __init__(self, owner: ObjectBytes, first: int, last: int) -> None:
        self.owner = weakref.ref(owner)
        self.first, self.last = first, last
        self.unread_nbytes = (last - first) * BLOCK
        self.data: Future[bytes] = Future()


class _KeptChunks:
    """The chunks of all objects, as far as there is room; those that were read go first.

    Of two that were read, or were not, the one that was used longest ago goes first.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # never held while anything is waited for
        self._unread: OrderedDict[_Chunk, None] = OrderedDict()
        self._read: OrderedDict[_Chunk, None] = OrderedDict()
        self._blocks = {True: 0, False: 0}  # by whether they are unread

    @property
    def unread_bytes(self) -> int:
        """Bytes that were asked for, and not read yet."""
        return self._blocks[True] * BLOCK

    def add(self, chunk: _Chunk) -> None:
        self._unread[chunk] = None
        self._count(chunk, chunk.last - chunk.first)
        while sum(self._blocks.values()) > _KEPT // BLOCK and (self._read or len(self._unread) > 1):
            self.drop(next(iter(self._read or self._unread)))

    def use(self, chunk: _Chunk, start: int, stop: int, *, is_shared: bool) -> None:
        """Take note that a chunk, which may be gone, was read from one byte of the object to
        another.

        is_shared: several may read its parts, so that its end may be read before the rest.
        """
        size = (chunk.last - chunk.first) * BLOCK
        with self.lock:
            chunk.unread_nbytes -= stop - start
            is_read = stop > (chunk.last - 1) * BLOCK  # there may be gaps that nobody reads
            if is_shared:
                is_read = chunk.unread_nbytes <= (size // _GAPS_OF if is_read else BLOCK)
            if chunk in self._read:
                self._read.move_to_end(chunk)
            elif chunk in self._unread and not is_read:
                self._unread.move_to_end(chunk)
            elif chunk in self._unread:
                del self._unread[chunk]
                self._read[chunk] = None
                self._count(chunk, chunk.first - chunk.last)
                self._blocks[False] += chunk.last - chunk.first

    def _count(self, chunk: _Chunk, blocks: int) -> None:
        """Count blocks that are unread, also for the object that they are of."""
        self._blocks[True] += blocks
        owner = chunk.owner()
        if owner is not None:
            owner.unread_blocks += blocks

    def drop(self, chunk: _Chunk) -> None:
        if chunk in self._unread:
            del self._unread[chunk]
            self._count(chunk, chunk.first - chunk.last)
        elif chunk in self._read:
            del self._read[chunk]
            self._blocks[False] -= chunk.last - chunk.first
        owner = chunk.owner()
        if owner is not None:
            owner.without(chunk)


_kept = _KeptChunks()


class _ReadingOn:
    """Somebody who reads on: up to which byte, and how many bytes so far.

    until: where the run of bytes ends that is read.  following: how many such runs were read
    one after the other.
    """

    def __init__(self, end: int) -> None:
        self.end, self.run = end, 0
        self.until = self.following = 0

    def add(self, offset: int, nbytes: int, until: int) -> bool:
        """Take note of a read; return whether it shows that more will be read behind it."""
        if until != self.until:
            self.following += bool(self.until and offset >= self.until)
            self.until = until
        end = offset + nbytes
        self.run += nbytes
        is_ahead = end >= self.end
        self.end = max(self.end, end)
        is_following = not until or self.following >= _FOLLOWING
        return is_ahead and is_following and self.run >= _READING_ON


class ObjectBytes:
    """One object, in the one state in which it is read.

    Args:
        source: where it is.
        key: of it, there.
        state: in which alone it is read.
        start: its first bytes, where they came with its state.
    """

    def __init__(
        self, source: ObjectSource, key: str, state: ObjectState, start: bytes = b""
    ) -> None:
        self.source, self.key, self.state = source, key, state
        self.where = source.root + key
        self._by_block: dict[int, _Chunk] = {}
        self._streams: list[_ReadingOn] = []
        self._start = start
        self._copy: Handle | ArrivingCopy | None = None
        self._is_read_on = False  # to its end
        self._next: ObjectBytes | None = None
        self._was_read = False  # beyond what came with its state
        self._front = 0  # up to which it was asked for, where it is read on
        self.unread_blocks = 0  # of those asked for
        weakref.finalize(self, _drop_all, self._by_block).atexit = False

    def read_into(self, offset: int, buffer: memoryview, until: int = 0) -> None:
        """Fill `buffer` from `offset`; the object holds that many bytes.

        until: the byte up to which will be read on.

        Raises RemoteChanged, CkptkitError.
        """
        done, nbytes = 0, len(buffer)
        if isinstance(self._copy, ArrivingCopy):
            self._copy.read_into(offset, buffer)
            return
        if self._copy is not None:
            while done < nbytes:
                count = os.preadv(self._copy.fd, [buffer[done:]], offset + done)
                if not count:
                    raise RemoteChanged(self.key)  # somebody cut the copy short
                done += count
            return
        if offset < len(self._start):
            done = min(len(self._start) - offset, nbytes)
            buffer[:done] = memoryview(self._start)[offset : offset + done]
            if done == nbytes:
                return
        ahead = max(offset + nbytes, self._read_ahead(offset, nbytes, until))
        while done < nbytes:
            part = self._part(offset + done, nbytes - done, ahead)
            buffer[done : done + len(part)] = part
            done += len(part)

    def lent(self, offset: int, nbytes: int, until: int = 0) -> memoryview | None:
        """Return bytes from `offset` on where they lie, at most `nbytes`; None where in a file.

        Raises as `read_into` does.
        """
        if self._copy is not None:
            return None
        if offset < len(self._start):
            return memoryview(self._start)[offset : offset + nbytes]
        step = min(nbytes, MAX_REQUEST)
        ahead = max(offset + step, self._read_ahead(offset, step, until))
        return self._part(offset, nbytes, ahead)

    def _part(self, at: int, nbytes: int, ahead: int) -> memoryview:
        """Return bytes from `at` on, at most `nbytes`, of one answer; all up to `ahead` is asked
        for."""
        end = min(at + WINDOW, ahead, self.state.size)
        chunk = self._chunks(at, max(end, at + 1))
        data = chunk.data.result()
        skip = at - chunk.first * BLOCK
        part = memoryview(data)[skip : skip + nbytes]
        _kept.use(chunk, at, at + len(part), is_shared=self._is_read_on)
        return part

    def use_copy(self, copy: Path) -> None:
        """Read from a file of this machine, which holds all bytes; raises OSError."""
        if self._copy is None:
            self._copy = Handle(copy)

    def begin_copy(self, place: Path) -> ArrivingCopy | None:
        """Begin to fetch all bytes into a file of this machine, and read from that; raises OSError.

        Returns:
            What arrives; None where there is a copy.
        """
        with _kept.lock:
            if self._copy is None:
                self._copy = ArrivingCopy(self.state.size, self._piece, place)
            return self._copy if isinstance(self._copy, ArrivingCopy) else None

    def _piece(self, start: int, stop: int) -> bytes:
        if stop <= len(self._start):
            return self._start[start:stop]
        return fetched(self.source, self.key, start, stop, self.state)

    def will_be_read_on(self, then: ObjectBytes | None) -> None:
        """Take note that all of it will be read, in order.

        then: what is read to its end after it, and so begun as soon as all of this is on its way.
        """
        self._is_read_on, self._next = True, then
        self._front, self._was_read = 0, False  # it may be read once more

    def begin(self) -> None:
        """Begin to fetch what will be read on, as far as there is room.

        The more of it is asked for before anything else is done, the fewer trips are waited for.
        """
        begun: ObjectBytes | None = self
        while begun is not None and begun._begin():
            begun = begun._next

    def _begin(self) -> bool:
        """Ask for as much as there is room for; return whether that is all."""
        size = self.state.size
        if self._copy is not None or len(self._start) >= size:
            return True
        with _kept.lock:
            # Who reads it is read ahead of already.
            if self._was_read or _kept.unread_bytes + _LEAST_WINDOW > _UNREAD:
                return False
            self._ask_on(0)
            return self._front >= size

    def _ask_on(self, end: int) -> None:
        """Ask for what comes next of what is read to its end, as far as there is room.

        end: up to which byte somebody reads now, room or not.

        It goes on from where it was asked for, whoever reads where: what one of several threads has
        read, and is gone, is not asked for again for another that is behind.
        """
        with _kept.lock:
            start, size = self._front, self.state.size
            own = self.unread_blocks * BLOCK
            others = _kept.unread_bytes - own
            window = min(WINDOW, max(_UNREAD - others, _LEAST_WINDOW))
            stop = min(start + window - own, size)
            if stop < size:  # no request for every small step: a quarter of the window at once
                stop -= (stop - start) % MAX_REQUEST
                if stop - start < window // 4:
                    stop = start
                if stop < end <= start + WINDOW:
                    stop = min(end + -(end - start) % MAX_REQUEST, size)
            if start < stop:
                self._front = stop
                self._chunks(start, stop)

    def fetch(self, spans: Sequence[tuple[int, int]]) -> None:
        """Begin to fetch what will be read piecemeal, as far as it is little enough.

        spans: (offset, nbytes).  Those that lie close together come in one request.
        """
        if self._copy is not None:
            return
        size, begun = self.state.size, len(self._start)
        joined: list[list[int]] = []
        for offset, nbytes in sorted(spans):
            start, stop = max(offset, 0), min(offset + nbytes, size)
            if joined and start - joined[-1][1] <= _GAP:
                joined[-1][1] = max(joined[-1][1], stop)
            elif start < stop:
                joined.append([start, stop])
        wanted = [(start, stop) for start, stop in joined if stop > begun]
        if sum(max(stop - start, BLOCK) for start, stop in wanted) <= MAX_PIECEMEAL:
            for start, stop in wanted:
                self._chunks(start, stop)

    def _read_ahead(self, offset: int, nbytes: int, until: int) -> int:
        """Return up to which byte is fetched, by what was read so far.  Threads take turns."""
        size, end = self.state.size, offset + nbytes
        self._was_read = self._was_read or bool(nbytes)
        if size <= SMALL_OBJECT:
            return size
        if self._is_read_on:
            self._ask_on(end)
            if self._next is not None and self._front >= size:
                self._next.begin()
            return end
        with _kept.lock:
            stream = self._stream(offset)
            reads_on = stream.add(offset, nbytes, until)
            wanted = max(min(stream.run, _AHEAD) if reads_on else 0, until - end)
            if wanted <= 0:
                return end
            number = end // BLOCK
            while number in self._by_block:
                number = self._by_block[number].last
            missing = number * BLOCK  # the first byte that is not on its way
            others = _kept.unread_bytes - max(missing - end, 0)
            window = min(wanted, WINDOW, max(_UNREAD - others, _LEAST_WINDOW))
            # No request for every small step: a quarter of the window is asked for at once.
            if missing - end >= window * 3 // 4:
                return end
            stop = min(end + window, size)
            if stop - missing > MAX_REQUEST and window < wanted:  # nor one for a small rest
                stop -= (stop - missing) % MAX_REQUEST
            return stop

    def _stream(self, offset: int) -> _ReadingOn:
        """Return what reads on at an offset, the one used last at the end of the list."""
        streams = self._streams
        for number in range(len(streams) - 1, -1, -1):
            # Threads that share the work read nearly, but not quite, in order.
            if -_READING_ON <= offset - streams[number].end <= _READING_ON:
                streams.append(streams.pop(number))
                return streams[-1]
        streams.append(_ReadingOn(offset))
        del streams[:-_STREAMS]
        return streams[-1]

    def _chunks(self, start: int, stop: int) -> _Chunk:
        """Return the chunk with byte `start`; what is missing up to `stop` is on its way then."""
        wanted: list[_Chunk] = []
        found_at = start // BLOCK
        if stop - start < _LEAST:
            start -= start % _LEAST
            stop = min(stop + -stop % _LEAST, self.state.size)
        number, last = start // BLOCK, -(-stop // BLOCK)
        with _kept.lock:
            while number < last:
                if number in self._by_block:
                    number = self._by_block[number].last
                    continue
                end = number + 1
                while end < min(last, number + MAX_REQUEST // BLOCK) and end not in self._by_block:
                    end += 1
                chunk = _Chunk(self, number, end)
                wanted.append(chunk)
                self._by_block.update(dict.fromkeys(range(number, end), chunk))
                number = end
            found = self._by_block[found_at]
            for chunk in wanted:
                _kept.add(chunk)
            for chunk in wanted:
                chunk.data = in_flight(partial(self._bring, chunk.first, chunk.last))
        for chunk in wanted:
            chunk.data.add_done_callback(partial(_drop_failed, weakref.ref(chunk)))
        return found

    def _bring(self, first: int, last: int) -> bytes:
        start, stop = first * BLOCK, min(last * BLOCK, self.state.size)
        return fetched(self.source, self.key, start, stop, self.state)

    def without(self, chunk: _Chunk) -> None:
        """Forget what a chunk brought."""
        for number in range(chunk.first, chunk.last):
            if self._by_block.get(number) is chunk:
                del self._by_block[number]


def _drop_failed(of: weakref.ref[_Chunk], data: Future[bytes]) -> None:
    """Let the next read ask anew.

    of: the chunk; a future keeps its callbacks, and a chunk in one would keep its bytes for ever.
    """
    chunk = of()
    if chunk is not None and (data.cancelled() or data.exception() is not None):
        with _kept.lock:
            _kept.drop(chunk)


def _drop_all(by_block: dict[int, _Chunk]) -> None:
    """Let go of what an object has that nobody reads any more."""
    with _kept.lock:
        for chunk in {*by_block.values()}:
            _kept.drop(chunk)


def fetched(source: ObjectSource, key: str, start: int, stop: int, state: ObjectState) -> bytes:
    """Return bytes [start, stop) of an object in that state: all of them, of no other state.

    Raises RemoteChanged, CkptkitError.
    """

    def ask() -> bytes:
        try:
            answer = source.get(key, start, stop, state)
        finally:
            count(1)
        if not state.is_that_of(answer.state):
            raise RemoteChanged(key)
        if len(answer.data) != stop - start:
            raise RetryError(f"{len(answer.data)} bytes came of {stop - start}")
        count(0, stop - start)
        return answer.data

    return insisting(ask, source.root + key)
