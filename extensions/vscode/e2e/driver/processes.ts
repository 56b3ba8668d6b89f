// What a workbench has started, told by a variable in the environment as well
// as by descent: the daemon is nobody's child, and some clear their environment.

import * as fs from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

/** A process that a reused pid is not mistaken for. */
export interface Process {
	readonly pid: number;
	readonly started: string;
	readonly command: string;
}

interface Seen extends Process {
	readonly parent: number;
	readonly marked: boolean;
}

function look(pid: number, marker: string): Seen | undefined {
	try {
		const stat = fs.readFileSync(`/proc/${pid}/stat`, 'utf8');
		const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' '); // from the state on
		if (fields[0] === 'Z') {
			return undefined; // somebody's to wait for, but gone
		}
		const command = fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
		const marked = fs.readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0').includes(marker);
		return { pid, started: fields[19], parent: Number(fields[1]), command, marked };
	} catch {
		return undefined; // it has ended meanwhile
	}
}

/** The processes that have a variable ("NAME=value"), and who descends from them. */
export function ours(marker: string): Process[] {
	const all = fs.readdirSync('/proc').filter(name => /^\d+$/.test(name)).map(name => look(Number(name), marker)).filter(p => p !== undefined);
	const family = new Set(all.filter(p => p.marked).map(p => p.pid));
	for (let size = 0; size !== family.size;) {
		size = family.size;
		for (const p of all) {
			if (family.has(p.parent)) {
				family.add(p.pid);
			}
		}
	}
	return all.filter(p => family.has(p.pid));
}

function lives(p: Process): boolean {
	const now = look(p.pid, '');
	return now !== undefined && now.started === p.started;
}

/** Waits until all that is ours has ended, and returns what has not in time. */
export async function allGone(marker: string, milliseconds: number): Promise<Process[]> {
	const known = new Map<number, Process>(); // one that loses its parent stays ours
	for (const end = Date.now() + milliseconds; ; await delay(50)) {
		for (const p of ours(marker)) {
			known.set(p.pid, p);
		}
		const left = [...known.values()].filter(lives);
		if (left.length === 0 || Date.now() > end) {
			return left;
		}
	}
}

/** Memory in MB that processes have to themselves, shared pages in equal parts. */
export function memory(processes: readonly { readonly pid: number }[]): number {
	let kb = 0;
	for (const p of processes) {
		try {
			kb += Number(/^Pss:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${p.pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0);
		} catch {
			// it has ended meanwhile
		}
	}
	return Math.round(kb / 1024);
}
