// The extension under test, and what its daemon says.

import { execFile } from 'node:child_process';
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { promisify } from 'node:util';

import type { Bench, BenchOptions } from './bench.ts';
import { Shop } from './cluster.ts';
import { goCaches, root, Suite } from './scenario.ts';
import type { Settings } from './server.ts';
import { until } from './wait.ts';
import type { Window } from './window.ts';

const run = promisify(execFile);
const standins = path.join(import.meta.dirname, '../standins');

export const statusId = 'mirrord.mirrord.mirrord.status';
export const pickerTitle = 'mirrord: choose a target';

function packed(): string {
	const file = path.join(root, `bin/mirrord-linux-${process.arch}.vsix`);
	if (!fs.existsSync(file)) {
		throw new Error(`no ${file}: ./task vscode:package makes it`);
	}
	return file;
}

interface SessionLine {
	readonly id: string;
	readonly target: string;
	readonly launchers: number;
	readonly ports?: readonly number[];
	readonly mirrors?: boolean;
}

/** Scenarios of the extension with a shop of their own. */
export class MirrordSuite extends Suite {
	private static shop: Shop | undefined;

	constructor(settings: () => Settings = () => ({}), env: Readonly<Record<string, string>> = {}) {
		super(() => MirrordSuite.options(settings(), env), ['mirrord.mirrord', 'mirrord']);
	}

	private static options(settings: Settings, env: Readonly<Record<string, string>>): BenchOptions {
		const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'ms-'));
		const shop = MirrordSuite.shop = Shop.open(dir);
		return {
			extensions: [packed(), path.join(standins, 'go'), path.join(standins, 'python')],
			settings: { 'go.alternateTools': { dlv: path.join(root, 'bin/dlv') }, 'telemetry.telemetryLevel': 'off', ...settings },
			env: { ...goCaches(), KUBECONFIG: shop.kubeconfig, MIRRORD_SESSION: undefined, NODE_EXTRA_CA_CERTS: undefined, ...env },
			ending: async bench => {
				try {
					await daemonEnds(bench);
				} finally {
					shop.close();
					fs.rmSync(dir, { recursive: true, force: true });
				}
			},
		};
	}

	get shop(): Shop {
		if (!MirrordSuite.shop) {
			throw new Error('the shop opens with the first scenario');
		}
		return MirrordSuite.shop;
	}
}

async function mirrord(bench: Bench, ...args: string[]): Promise<string> {
	const env = { ...process.env, XDG_RUNTIME_DIR: bench.server.runtimeDir };
	return (await run(path.join(root, 'bin/mirrord'), args, { env, timeout: 30_000 })).stdout;
}

export function daemonRuns(bench: Bench): boolean {
	return fs.existsSync(path.join(bench.server.runtimeDir, 'mirrord/daemon.sock'));
}

/** The sessions that the bench's daemon has. */
export async function sessions(bench: Bench): Promise<SessionLine[]> {
	if (!daemonRuns(bench)) {
		return [];
	}
	return (JSON.parse(await mirrord(bench, 'session', 'ls', '-o', 'json')) as { sessions: SessionLine[] }).sessions;
}

/** Waits until no program runs in a session. A launch's session outlives it for a while, for the next. */
export async function nothingRuns(bench: Bench): Promise<void> {
	await until('the programs to end', async () => (await sessions(bench)).every(s => !s.launchers));
}

/** Sessions end with the windows that held them; then the daemon is idle, and told to end. */
async function daemonEnds(bench: Bench): Promise<void> {
	if (daemonRuns(bench)) {
		await until('the sessions to end', async () => (await sessions(bench)).length === 0, 30_000);
		await mirrord(bench, 'daemon', 'stop');
	}
}

/** Turns mirrord on in a window where it is off. */
export async function turnOn(w: Window): Promise<void> {
	await w.statusShows(statusId, /mirrord: off/);
	await w.statusItem(statusId).click();
	await w.statusShows(statusId, /mirrord: on/);
}

/** Makes the picker in front ask for connections, not for a copy of them. */
export async function steal(w: Window): Promise<void> {
	const row = w.quickPick.row('Incoming: mirror');
	await row.waitFor();
	await w.quickPick.loaded();
	await row.click();
	await w.quickPick.row('Incoming: steal').waitFor();
}

/** Waits for the picker, and chooses in it. */
export async function pick(w: Window, target: string): Promise<void> {
	await w.quickPick.titled(pickerTitle);
	await w.quickPick.choose(target);
}
