"""One table, stepped by plain ifs: the rules as table.py states them, written anew."""

import math

STEP, TURN, REACH, HALF, OPEN = 0.07, 0.2, 0.06, 0.05, 0.28
LIMITS = [(0.03, 0.97), (0.03, 0.97), (0.05, 0.5)]
NEUTRAL = (0.5, 0.3, 0.4)
LEFT, RIGHT, FRONT, BOARD = 0.06, 0.48, 0.72, 0.03
BOTTOMS, TOPS, FLOORS, HANDLES = (0.0, 0.15), (0.15, 0.30), (0.02, 0.17), (0.08, 0.23)
CABINET = 0.32


def cut(value, low, high):
    return min(max(value, low), high)


def chance_number(seed, step):
    """SplitMix64's number in [0, 1), in whole numbers of any size."""
    mask = 2**64 - 1
    mixed = (seed + (step + 1) * 0x9E3779B97F4A7C15) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    return ((mixed ^ (mixed >> 31)) >> 11) / 2**53


class Twin:
    def __init__(self, tables, row=0):
        self.position = tables.position[row].tolist()
        self.angles = tables.angles[row].tolist()
        self.shut = bool(tables.shut[row])
        held = int(tables.holding[row])
        self.block = held if 0 <= held < 100 else None
        self.handle = held - 100 if held >= 100 else None
        self.blocks = tables.blocks[row].tolist()
        self.inside = [None if d < 0 else d for d in tables.inside[row].tolist()]
        self.drawers = tables.drawers[row].tolist()
        self.seed, self.steps = int(tables.seed[row]), int(tables.steps[row])

    def front(self, drawer):
        return FRONT - BOARD - self.drawers[drawer]

    def below(self, x, y):
        """The place, its floor and its wall."""
        if not LEFT <= x < RIGHT:
            return "table", 0.0, 0.0
        if y >= FRONT:
            return "cabinet", CABINET, CABINET
        for drawer in (1, 0):
            front = self.front(drawer)
            if y > front + BOARD:
                return f"in {drawer}", FLOORS[drawer], TOPS[drawer]
            if y > front + 1e-9:
                return f"on {drawer}", TOPS[drawer], TOPS[drawer]
        return "table", 0.0, 0.0

    def slide(self, drawer, opened):
        """Open the drawer so far; how far it went along y."""
        opened = cut(opened, 0, OPEN)
        moved = self.drawers[drawer] - opened
        for block, inside in enumerate(self.inside):
            if inside == drawer:
                self.blocks[block][1] += moved
        self.drawers[drawer] = opened
        return moved

    def step(self, action):
        action = [cut(float(number), -1, 1) for number in action]
        stop = action[7] > 0
        if stop:
            way = [cut(n - p, -STEP, STEP) for n, p in zip(NEUTRAL, self.position, strict=True)]
            turn = [cut(-angle, -TURN, TURN) for angle in self.angles]
        else:
            way = [STEP * number for number in action[:3]]
            turn = [TURN * number for number in action[3:6]]
        self.angles = [cut(a + t, -1, 1) for a, t in zip(self.angles, turn, strict=True)]
        self.move(way)
        shut = self.shut if stop else action[6] > 0
        if self.shut and not shut:
            self.release()
        if shut and not self.shut:
            self.grasp()
        self.shut = shut
        self.steps += 1

    def move(self, way):
        if self.handle is not None:
            moved = self.slide(self.handle, self.drawers[self.handle] - way[1])
            self.position[1] += moved
            return
        old = list(self.position)
        new = [cut(p + w, *limit) for p, w, limit in zip(old, way, LIMITS, strict=True)]
        for drawer in (0, 1):
            front = self.front(drawer)
            level = BOTTOMS[drawer] <= old[2] < TOPS[drawer]
            if LEFT <= old[0] < RIGHT and level and old[1] <= front < new[1]:
                self.slide(drawer, FRONT - BOARD - new[1])
                new[1] = self.front(drawer)
                break
        here, _, wall = self.below(old[0], old[1])
        there, _, other_wall = self.below(new[0], new[1])
        if here != there and max(old[2], new[2]) < max(wall, other_wall) + HALF - 1e-9:
            new[0], new[1] = old[0], old[1]
        _, floor, _ = self.below(new[0], new[1])
        new[2] = max(new[2], floor + HALF)
        self.position = new
        if self.block is not None:
            self.blocks[self.block] = list(new)

    def release(self):
        if self.block is not None:
            place, floor, _ = self.below(self.position[0], self.position[1])
            self.blocks[self.block][2] = floor + HALF
            self.inside[self.block] = int(place[3:]) if place.startswith("in ") else None
        self.block = self.handle = None

    def grasp(self):
        x, y, z = self.position
        near = []
        for index, (bx, by, bz) in enumerate(self.blocks):
            if max(abs(bx - x), abs(by - y), abs(bz - z)) <= REACH:
                near.append((math.hypot(bx - x, by - y), index))
        if near:
            distance, index = min(near)
            tilt = max(abs(self.angles[0]), abs(self.angles[1]))
            if chance_number(self.seed, self.steps) < 1.3 - (distance / REACH + tilt / 2):
                self.block, self.inside[index] = index, None
                self.blocks[index] = list(self.position)
            return
        for drawer in (1, 0):
            aside = abs(x - 0.27), abs(y - (self.front(drawer) - 0.02)), abs(z - HANDLES[drawer])
            if aside[0] <= 0.1 and aside[1] <= 0.05 and aside[2] <= 0.05:
                self.handle = drawer
                return
