// Scenarios of one workbench: tests of node:test, a line each in
// bin/vscode-e2e.jsonl, and a screenshot of each window where one fails.

import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as path from 'node:path';
import { after, test } from 'node:test';

import { Bench, type BenchOptions } from './bench.ts';

export const root = path.join(import.meta.dirname, '../../../..');
const results = path.join(root, 'bin/vscode-e2e.jsonl');

/** The words that a scenario's name must have to be run; run.sh sets it. */
const only = process.env.MIRRORD_E2E_ONLY ?? '';

export class Suite {
	private readonly options: () => BenchOptions;
	private readonly extension: readonly [string, string] | undefined;
	private bench: Promise<Bench> | undefined;

	/** The bench is started by the first scenario; log is an extension and its channel, shown where one fails. */
	constructor(options: () => BenchOptions, log?: readonly [string, string]) {
		this.options = options;
		this.extension = log;
		after(async () => {
			const bench = await this.bench?.catch(() => undefined); // who started it has told
			if (bench) {
				const mb = bench.memory();
				const start = Date.now();
				await bench.stop();
				console.log(`the bench had ${mb} MB, and has ended in ${Date.now() - start} ms`);
				if (bench.strangers.length > 0) {
					throw new Error('pages have asked strangers: ' + bench.strangers.join(' '));
				}
			}
		}, { timeout: 60_000 });
	}

	scenario(name: string, run: (bench: Bench) => Promise<void>, timeout = 180_000): void {
		if (!name.includes(only) || name.startsWith('figures:') && !only.startsWith('figures')) { // figures want a machine to themselves
			return;
		}
		test(name, { timeout: timeout + 60_000 }, async t => {
			const start = Date.now();
			let bench: Bench | undefined;
			try {
				this.bench ??= Bench.start(this.options());
				bench = await this.bench;
				await within(timeout, run(bench));
				record({ name, ok: true, ms: Date.now() - start });
			} catch (err) {
				const error = (err as Error).message;
				record({ name, ok: false, ms: Date.now() - start, error });
				for (const [i, w] of (bench?.windows ?? []).entries()) {
					await w.shot(`FAIL ${name}${i === 0 ? '' : ` ${i + 1}`}`.replaceAll(/[^\w-]+/g, '-')).catch(() => undefined);
					await w.tidy().catch(() => undefined);
				}
				if (bench && this.extension) {
					t.diagnostic(`log: ${bench.log(...this.extension).slice(-6000)}`);
				}
				throw err;
			}
		});
	}
}

async function within(milliseconds: number, run: Promise<void>): Promise<void> {
	let timer: NodeJS.Timeout | undefined;
	const late = new Promise<never>((_, reject) => {
		timer = setTimeout(() => reject(new Error(`not done in ${milliseconds / 1000} s`)), milliseconds);
	});
	try {
		await Promise.race([run, late]);
	} finally {
		clearTimeout(timer);
	}
}

function record(result: { name: string; ok: boolean; ms: number; error?: string }): void {
	fs.mkdirSync(path.dirname(results), { recursive: true });
	fs.appendFileSync(results, JSON.stringify(result) + '\n');
}

/** Caches of this user that a home of its own would lack: a first Go build takes long. */
export function goCaches(): Record<string, string> {
	const [GOCACHE, GOMODCACHE, GOPATH] = execFileSync('go', ['env', 'GOCACHE', 'GOMODCACHE', 'GOPATH']).toString().trim().split('\n');
	return { GOCACHE, GOMODCACHE, GOPATH };
}
