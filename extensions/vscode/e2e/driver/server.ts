// VS Code as a server, with a home, extensions and settings of its own.

import { execFile, execFileSync, spawn, type ChildProcess } from 'node:child_process';
import * as fs from 'node:fs';
import * as net from 'node:net';
import * as path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

export type Settings = Readonly<Record<string, unknown>>;

export interface ServerOptions {
	/** A .vsix, or the folder of an extension that needs no build. */
	readonly extensions: readonly string[];
	readonly settings?: Settings;
	/** Added to this process's environment; undefined takes away. */
	readonly env?: Readonly<Record<string, string | undefined>>;
}

/** What every scenario wants: nothing moves that nobody asked for, and all text is in the page. */
const quiet: Settings = {
	'workbench.startupEditor': 'none',
	'workbench.secondarySideBar.defaultVisibility': 'hidden',
	'workbench.enableExperiments': false,
	'workbench.tips.enabled': false,
	'workbench.reduceMotion': 'on',
	'chat.disableAIFeatures': true,
	'telemetry.telemetryLevel': 'off',
	'update.mode': 'none',
	'extensions.autoCheckUpdates': false,
	'extensions.autoUpdate': false,
	'extensions.ignoreRecommendations': true,
	'security.workspace.trust.enabled': false,
	'git.enabled': false,
	'npm.autoDetect': 'off',
	'editor.minimap.enabled': false,
	'debug.internalConsoleOptions': 'openOnSessionStart',
	'debug.openDebug': 'openOnDebugBreak',
	'files.autoSave': 'off',
	'terminal.integrated.gpuAcceleration': 'off',
	'window.confirmBeforeClose': 'never',
};

function install(): string {
	const script = path.join(import.meta.dirname, '..', 'install.sh');
	return execFileSync(script, { stdio: ['ignore', 'pipe', 'inherit'] }).toString().trim();
}

/** A port that nobody listens on, and that the kernel gives nobody who asks for any. */
async function freePort(): Promise<number> {
	for (;;) {
		const port = 10_000 + Math.floor(Math.random() * 20_000);
		const s = net.createServer().listen(port, '127.0.0.1');
		const free = await new Promise(resolve => s.once('listening', () => s.close(() => resolve(true))).once('error', () => resolve(false)));
		if (free) {
			return port;
		}
	}
}

/** A code-server on a loopback port. Everything it writes is in dir, whose path must be short: sockets are in it. */
export class Server {
	readonly dir: string;
	readonly url: string;
	readonly runtimeDir: string;
	private readonly child: ChildProcess;

	private constructor(dir: string, port: number, child: ChildProcess) {
		this.dir = dir;
		this.url = `http://127.0.0.1:${port}`;
		this.runtimeDir = path.join(dir, 'run');
		this.child = child;
	}

	/** What tells the processes that have come from a server in dir. */
	static marker(dir: string): string {
		return `XDG_RUNTIME_DIR=${path.join(dir, 'run')}`;
	}

	static async start(dir: string, options: ServerOptions): Promise<Server> {
		const bench = install();
		for (const name of ['home', 'tmp', 'ud/User', 'ext']) {
			fs.mkdirSync(path.join(dir, name), { recursive: true });
		}
		fs.mkdirSync(path.join(dir, 'run'), { mode: 0o700 });
		fs.writeFileSync(path.join(dir, 'config.yaml'), 'auth: none\n');
		fs.writeFileSync(path.join(dir, 'ud/User/settings.json'), JSON.stringify({ ...quiet, ...options.settings }, null, '\t'));
		const home = path.join(dir, 'home');
		const env: NodeJS.ProcessEnv = {
			...process.env,
			HOME: home,
			XDG_CONFIG_HOME: path.join(home, '.config'),
			XDG_DATA_HOME: path.join(home, '.local/share'),
			XDG_CACHE_HOME: path.join(home, '.cache'),
			XDG_STATE_HOME: path.join(home, '.local/state'),
			XDG_RUNTIME_DIR: path.join(dir, 'run'),
			TMPDIR: path.join(dir, 'tmp'),
			EXTENSIONS_GALLERY: '{}',
			...options.env,
		};
		for (const name of Object.keys(env)) {
			if (env[name] === undefined || name.startsWith('VSCODE_') || name === 'PORT') { // PORT would be code-server's own
				delete env[name];
			}
		}
		const node = path.join(bench, 'run-node');
		const common = [
			path.join(bench, 'run-server'), '--config', path.join(dir, 'config.yaml'), '--user-data-dir', path.join(dir, 'ud'),
			'--extensions-dir', path.join(dir, 'ext'), '--disable-telemetry', '--disable-update-check',
		];
		if (options.extensions.length > 0) {
			const flags = options.extensions.flatMap(e => ['--install-extension', e]);
			await promisify(execFile)(node, [...common, ...flags], { env, maxBuffer: 16 << 20 });
		}
		const port = await freePort();
		const log = fs.openSync(path.join(dir, 'server.log'), 'w');
		const child = spawn(node, [
			...common, '--auth', 'none', '--bind-addr', `127.0.0.1:${port}`, '--disable-workspace-trust', '--disable-getting-started-override',
			'--vscode-option', 'force-disable-user-env', // else env gives way to a login shell's
		], { env, stdio: ['ignore', log, log] });
		fs.closeSync(log);
		const server = new Server(dir, port, child);
		await server.healthy();
		return server;
	}

	private async healthy(): Promise<void> {
		for (const end = Date.now() + 60_000; ; await delay(50)) {
			try {
				if ((await fetch(this.url + '/healthz')).ok) {
					return;
				}
			} catch {
				// it does not listen yet
			}
			if (this.child.exitCode !== null || Date.now() > end) {
				this.child.kill('SIGKILL');
				throw new Error(`code-server has not started: ${fs.readFileSync(path.join(this.dir, 'server.log'), 'utf8')}`);
			}
		}
	}

	/** The newest log of an extension's channel, e.g. mirrord.mirrord's mirrord. */
	log(extension: string, channel: string): string {
		const logs = path.join(this.dir, 'ud/logs');
		const files = fs.globSync(`*/exthost*/${extension}/${channel}.log`, { cwd: logs }).map(f => path.join(logs, f));
		files.sort((a, b) => fs.statSync(a).mtimeMs - fs.statSync(b).mtimeMs);
		const newest = files.at(-1);
		return newest === undefined ? '' : fs.readFileSync(newest, 'utf8');
	}

	terminate(): void {
		this.child.kill('SIGTERM');
	}
}
