// With the real daemon: bin/mirrord of this checkout, or MIRRORD_TEST_BINARY.
import * as assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { Daemon, DaemonError, type Cancel } from '../src/daemon';
import { apply, merge } from '../src/launch';
import type { Choice, Target } from '../src/protocol';
import { SessionTools } from '../src/tools';

const binary = process.env['MIRRORD_TEST_BINARY'] ?? path.join(process.cwd(), '../../bin/mirrord');
const kubeconfig = process.env['MIRRORD_TEST_KUBECONFIG'];
const never: Cancel = { isCancellationRequested: false, onCancellationRequested: () => ({ dispose() {} }) };

class Canceller implements Cancel {
	isCancellationRequested = false;
	private readonly listeners = new Set<() => void>();
	onCancellationRequested(f: () => void): { dispose(): void } {
		this.listeners.add(f);
		return { dispose: () => this.listeners.delete(f) };
	}
	cancel(): void {
		this.isCancellationRequested = true;
		this.listeners.forEach((f) => f());
	}
}

/** Where LLDB's module for Python is, which Debian's lldb does not find by itself; '': nowhere. */
function lldbPython(): string {
	for (const llvm of fs.readdirSync('/usr/lib').filter((n) => n.startsWith('llvm-'))) {
		const lib = path.join('/usr/lib', llvm, 'lib');
		for (const python of fs.readdirSync(lib).filter((n) => n.startsWith('python3'))) {
			const packages = path.join(lib, python, 'dist-packages');
			if (fs.existsSync(path.join(packages, 'lldb/embedded_interpreter.py'))) return packages;
		}
	}
	return '';
}

describe('the daemon', function () {
	this.timeout(60_000);
	let dir = '';
	let daemon: Daemon;
	const said: string[] = [];

	const options = { binary: () => binary, build: () => '', name: 'test', log: (s: string) => void said.push(s) };
	const choice = (more: Record<string, string> = {}, env: Record<string, string> = {}): Choice =>
		({ client: { dir, env: merge(process.env, env), local: [] }, overrides: { ...more } });

	before(() => {
		dir = fs.mkdtempSync(path.join(os.tmpdir(), 'mx-'));
		process.env['XDG_RUNTIME_DIR'] = dir; // of the daemon that this starts
		daemon = new Daemon(options);
	});
	after(async () => {
		daemon.dispose();
		execFileSync(binary, ['daemon', 'stop', '--force']);
		fs.rmSync(dir, { recursive: true });
	});

	it('is not started before it is asked', () => {
		assert.equal(daemon.connected, false);
		assert.ok(!fs.existsSync(path.join(dir, 'mirrord')));
	});
	it('says what is wrong in a text, and what a right one chooses', async () => {
		const bad = await daemon.verify({ ...choice(), configFile: path.join(dir, 'mirrord.json'), text: '{\n  "tarjet": "pod/a"\n}' });
		assert.deepEqual(bad.problems.map((p) => [p.line, p.column, p.warning ?? false]), [[2, 3, false]]);
		const good = await daemon.verify({ ...choice(), configFile: path.join(dir, 'mirrord.json'), text: '{"target": "deployment/web", "feature": {"network": {"incoming": "steal"}}}' });
		assert.deepEqual([good.problems, good.target, good.incoming], [[], 'deployment/web', 'steal']);
		const { name, text } = await daemon.defaultConfig();
		assert.deepEqual((await daemon.verify({ ...choice(), configFile: path.join(dir, name), text })).problems, []);
	});
	it('refuses with a code and a way out', async () => {
		await assert.rejects(daemon.targets(choice({ kubeconfig: '/nowhere' }), () => {}, never), (e: unknown) => {
			assert.ok(e instanceof DaemonError && e.code === 2 && e.message.includes('/nowhere'), String(e));
			return true;
		});
		await assert.rejects(daemon.stop('01234567'), (e: unknown) => e instanceof DaemonError && e.code === 7);
	});
	it('is told of cancellation', async () => {
		const cancel = new Canceller();
		const heard = daemon.events({ traffic: true }, cancel);
		assert.deepEqual(await daemon.sessions(), []);
		cancel.cancel();
		await assert.rejects(heard, (e: unknown) => e instanceof DaemonError && e.cancelled);
		await assert.rejects(daemon.events({}, cancel), (e: unknown) => e instanceof DaemonError && e.cancelled);
	});
	it('is refused where it is of another build', async () => {
		const other = new Daemon({ ...options, build: () => '0123456789ab' });
		await assert.rejects(other.sessions(), (e: unknown) => e instanceof DaemonError && e.code === 8 && e.message.includes('0123456789ab'));
		other.dispose();
	});
	it('is named where it cannot be run', async () => {
		const none = new Daemon({ ...options, binary: () => '/nowhere/mirrord' });
		await assert.rejects(none.sessions(), /starting \/nowhere\/mirrord: .*ENOENT/);
		none.dispose();
	});
	it('is started again by the next request when it was killed', async () => {
		const lost = new Promise<string>((resolve) => { daemon.onLost = resolve; });
		const pid = Number(/pid (\d+)/.exec(said.filter((s) => s.startsWith('daemon ')).at(-1) ?? '')?.[1]);
		process.kill(pid, 'SIGKILL');
		assert.ok(await lost);
		assert.deepEqual(await daemon.sessions(), []);
		const now = Number(/pid (\d+)/.exec(said.filter((s) => s.startsWith('daemon ')).at(-1) ?? '')?.[1]);
		assert.notEqual(now, pid);
	});

	describe('on the test cluster', function () {
		before(function () { if (!kubeconfig) this.skip(); });

		it('lists targets in parts, namespaces and contexts', async () => {
			const parts: Target[] = [];
			const c = choice({ kubeconfig: kubeconfig!, namespace: 'shop' });
			const all = await daemon.targets(c, (part) => parts.push(...part), never);
			assert.deepEqual(parts.map((t) => t.path).sort(), all.targets.map((t) => t.path).sort());
			assert.ok(all.targets.some((t) => t.path === 'deployment/web' && t.available));
			assert.ok((await daemon.namespaces(c)).namespaces.includes('shop'));
			assert.ok((await daemon.contexts(c)).current);
		});
		it('starts a session, tells of it, shows files, and ends it with the connection', async () => {
			const editor = new Daemon(options);
			const steps: string[] = [];
			const events: string[] = [];
			editor.onEvent = (e) => events.push(`${e.kind} ${e.message ?? ''}`);
			const s = await editor.start({ ...choice({ kubeconfig: kubeconfig!, namespace: 'shop', target: 'deployment/inventory' }), tied: true }, (m) => steps.push(m), never);
			assert.match(s.target, /^pod\/inventory-.* in shop$/);
			assert.ok(steps.length > 0, 'no progress');
			const names = (await editor.files(s.id, '/')).map((e) => e.name);
			assert.ok(names.includes('etc') && names.includes('proc'), names.join());
			const hosts = await editor.read(s.id, '/etc/hosts', 0, 4096);
			assert.match(Buffer.from(hosts.data, 'base64').toString(), /inventory-/);
			assert.equal((await editor.file(s.id, '/etc/hosts')).kind, 'file');
			await assert.rejects(editor.file(s.id, '/nowhere'), (e: unknown) => e instanceof DaemonError && e.errno === 'ENOENT');
			const ended = new Promise<void>((resolve) => { daemon.onEvent = (e) => { if (e.session === s.id && e.kind === 'ended') resolve(); }; });
			const stop = new Canceller();
			const heard = daemon.events({}, stop).catch(() => {});
			assert.equal((await daemon.sessions()).length, 1);
			editor.dispose();
			await ended;
			stop.cancel();
			await heard;
			assert.deepEqual(await daemon.sessions(), []);
		});
		it('runs what stands for other programs in a session, and debuggers beside it', async () => {
			const s = await daemon.start(choice({ kubeconfig: kubeconfig!, namespace: 'shop', target: 'deployment/inventory' }), () => {}, never);
			const store = fs.mkdtempSync(path.join(dir, 'store-'));
			const tools = new SessionTools(() => binary, process.cwd(), store, async () => [s.id]);
			const { wrapper, dlv } = await tools.of(s.id);
			const run = (file: string, ...args: string[]) => execFileSync(file, args, { timeout: 30_000, stdio: ['ignore', 'pipe', 'pipe'] }).toString();
			assert.match(run(await wrapper('/bin/hostname', false)), /^inventory-/);
			const gdb = run(await wrapper('gdb', true), '-batch', '-ex', 'run', '--args', '/bin/hostname');
			assert.match(gdb, /^inventory-/m);
			const version = execFileSync(dlv, ['version'], { env: { ...process.env, MIRRORD_SESSION: s.id } }).toString();
			assert.match(version, /Delve Debugger/);
			await tools.forget(s.id);
			assert.deepEqual(fs.readdirSync(store), ['dlv', 'wrappers']);
			assert.deepEqual(fs.readdirSync(path.join(store, 'wrappers')), []);
			await daemon.stop(s.id);
		});
		it('runs what LLDB launches in a session', async function () {
			const python = lldbPython();
			if (!python) return this.skip(); // no lldb here
			const s = await daemon.start(choice({ kubeconfig: kubeconfig!, namespace: 'shop', target: 'deployment/web' }), () => {}, never);
			const tools = await new SessionTools(() => binary, process.cwd(), dir, async () => [s.id]).of(s.id);
			const source = path.join(dir, 'hello.c');
			fs.writeFileSync(source, '#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\nint main(void) {\n\tchar name[99];\n\tgethostname(name, 99);\n\tprintf("%s: %s\\n", name, getenv("SHOP_GREETING"));\n}\n');
			execFileSync('cc', ['-g', '-o', path.join(dir, 'hello'), source]);
			const c = await apply({ type: 'lldb', request: 'launch', name: 'hello', program: path.join(dir, 'hello') }, s.id, tools);
			const commands = [...(c['initCommands'] as string[]), `target create ${String(c['program'])}`, 'breakpoint set -f hello.c -l 7', 'run', 'frame variable name', 'continue'];
			const said = execFileSync('lldb', ['-b', ...commands.flatMap((o) => ['-o', o])], { env: { ...process.env, PYTHONPATH: python }, timeout: 50_000, stdio: ['ignore', 'pipe', 'pipe'] }).toString();
			assert.match(said, /stop reason = breakpoint 1\.1/);
			assert.match(said, /name = "web-/);
			assert.match(said, /^web-\S+: hello from the cluster$/m);
			await daemon.stop(s.id);
		});
		it('stops a start that is cancelled', async () => {
			const cancel = new Canceller();
			const started = daemon.start(choice({ kubeconfig: kubeconfig!, namespace: 'shop', target: 'deployment/inventory' }), () => {}, cancel);
			setImmediate(() => cancel.cancel()); // the request is on its way, and long from answered
			await assert.rejects(started, (e: unknown) => e instanceof DaemonError && e.cancelled);
			assert.deepEqual(await daemon.sessions(), []);
		});
	});
});
