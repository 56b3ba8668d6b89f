import * as assert from 'node:assert/strict';
import { apply, configFile, environment, merge, quote, sessionVar, unsupported, wanted, type Launch, type Tools } from '../src/launch';

const launch = (more: Record<string, unknown>): Launch => ({ type: 'go', request: 'launch', name: 'web', ...more }) as Launch;

const tools: Tools = {
	mirrord: '/ext/bin/mirrord',
	dlv: '/store/dlv',
	lldb: '/ext/lldb/mirrord_lldb.py',
	wrapper: async (program, native) => `/store/${native ? 'debugger' : 'program'}${program}`,
};
const executable = async (file: string) => file === '/src/server';
const exec = ['exec', '--session', '5f3a9c21', '--'];
const applied = (more: Record<string, unknown>) => apply(launch(more), '5f3a9c21', tools);

describe('which launches are put into a session', () => {
	for (const [what, more, on, want] of [
		['a launch, where mirrord is on', {}, true, true],
		['a launch, where it is off', {}, false, false],
		['our own type, always', { type: 'mirrord-go' }, false, true],
		['one that asks for it', { env: { MIRRORD_ACTIVE: '1' } }, false, true],
		['one that asks for it in a word', { env: { MIRRORD_ACTIVE: 'true' } }, false, true],
		['one that does not want it', { env: { MIRRORD_ACTIVE: '0' } }, true, false],
		['nor by a word', { env: { MIRRORD_ACTIVE: 'False' } }, true, false],
		['by a removed variable nothing is said', { env: { MIRRORD_ACTIVE: null } }, true, true],
		['attaching', { request: 'attach' }, true, false],
		['the child of a debug session', { __parentId: 'x' }, true, false],
		['a browser', { type: 'pwa-chrome' }, true, false],
		['an editor', { type: 'extensionHost' }, true, false],
		['one that has a session', { env: { [sessionVar]: '5f3a9c21' } }, true, false],
		['by the environment of C++ launches', { type: 'cppdbg', environment: [{ name: 'MIRRORD_ACTIVE', value: '0' }] }, true, false],
	] as const) {
		it(what, () => assert.equal(wanted(launch(more), on), want));
	}
});

describe('a launch in a session', () => {
	it('of Go has our dlv, and nothing of the target but the id', async () => {
		assert.deepEqual(await applied({ dlvToolPath: '/go/bin/dlv', program: '.', env: { A: 'b' } }),
			launch({ dlvToolPath: '/store/dlv', program: '.', env: { A: 'b', MIRRORD_SESSION: '5f3a9c21' } }));
	});
	it('of node runs it in mirrord', async () => {
		assert.deepEqual(await applied({ type: 'pwa-node', program: 'web.js', runtimeArgs: ['--enable-source-maps'] }),
			launch({ type: 'pwa-node', program: 'web.js', runtimeExecutable: tools.mirrord, runtimeArgs: [...exec, 'node', '--enable-source-maps'] }));
		const npm = await applied({ type: 'node', runtimeExecutable: 'npm', runtimeArgs: ['run', 'start'] });
		assert.deepEqual(npm['runtimeArgs'], [...exec, 'npm', 'run', 'start']);
	});
	it('of a JavaScript debug terminal keeps its command line', async () => {
		const c = await applied({ type: 'node-terminal', command: "npm run dev -- --name 'a b'" });
		assert.equal(c['command'], `/ext/bin/mirrord exec --session 5f3a9c21 -- sh -c 'npm run dev -- --name '\\''a b'\\'''`);
	});
	it('of Python has an interpreter with arguments', async () => {
		assert.deepEqual((await applied({ type: 'debugpy', python: '/venv/bin/python' }))['python'], [tools.mirrord, ...exec, '/venv/bin/python']);
		assert.deepEqual((await applied({ type: 'python', python: ['python3', '-X', 'dev'] }))['python'], [tools.mirrord, ...exec, 'python3', '-X', 'dev']);
	});
	it('of Java has a program that stands for java', async () => {
		assert.equal((await applied({ type: 'java', javaExec: '/jdk/bin/java' }))['javaExec'], '/store/program/jdk/bin/java');
	});
	it('of C++ has a debugger that is not served itself', async () => {
		assert.equal((await applied({ type: 'cppdbg', program: '/src/server', miDebuggerPath: '/usr/bin/gdb' }))['miDebuggerPath'], '/store/debugger/usr/bin/gdb');
	});
	it('of LLDB has it begin with the session', async () => {
		assert.deepEqual((await applied({ type: 'lldb', program: 'server', initCommands: ['settings set x y'] }))['initCommands'], [
			'command script import "/ext/lldb/mirrord_lldb.py"', 'script mirrord_lldb.begin("/ext/bin/mirrord", "5f3a9c21")', 'settings set x y',
		]);
	});
	it('of a type with a runtime runs that in mirrord', async () => {
		const c = await applied({ type: 'php', runtimeExecutable: '/usr/bin/php', program: 'index.php' });
		assert.deepEqual([c['runtimeExecutable'], c['runtimeArgs']], [tools.mirrord, [...exec, '/usr/bin/php']]);
	});
	it('of any other type has a program that stands for the executable', async () => {
		assert.equal((await applied({ type: 'other', program: '/src/server' }))['program'], '/store/program/src/server');
	});
	it('is refused where its program would run outside', async () => {
		for (const [more, why] of [
			[{ type: 'lldb', targetCreateCommands: ['target create x'] }, /own commands/],
			[{ type: 'other', program: '/src/server.rb' }, /not known/],
			[{ type: 'cppdbg', MIMode: 'lldb', program: '/src/server' }, /not known/],
			[{ type: 'cppdbg', miDebuggerServerAddress: 'host:1' }, /another machine/],
			[{ mode: 'remote' }, /runs already/],
			[{ port: 2345 }, /runs already/],
			[{ type: 'pwa-node', debugServer: 4711 }, /runs already/],
			[{ type: 'mirrord-go', request: 'attach' }, /running process/],
		] as const) {
			assert.match(await unsupported(launch(more), executable), why, JSON.stringify(more));
		}
		for (const more of [{}, { type: 'node' }, { type: 'debugpy' }, { type: 'java' }, { type: 'cppdbg' }, { type: 'lldb', program: 'server' }, { type: 'other', program: '/src/server' }, { type: 'php', runtimeExecutable: 'php' }]) {
			assert.equal(await unsupported(launch(more), executable), '', JSON.stringify(more));
		}
	});
});

describe('the environment of a launch', () => {
	it('is over the editor\'s, and removes from it', () => {
		assert.deepEqual(merge({ A: '1', B: '2', C: undefined }, { B: null, D: '4' }), ['A=1', 'D=4']);
		assert.deepEqual(environment(launch({ env: { N: 8080, T: true, X: null } })), { N: '8080', T: 'true', X: null });
	});
	it('names the configuration file', () => {
		assert.equal(configFile(launch({ env: { MIRRORD_CONFIG_FILE: 'a.json' } })), 'a.json');
		assert.equal(configFile(launch({})), undefined);
	});
});

describe('a word for sh', () => {
	it('is quoted where that is needed', () => {
		assert.deepEqual(['a/b-c.js', '', 'a b', "it's", '$x'].map(quote), ['a/b-c.js', "''", "'a b'", `'it'\\''s'`, "'$x'"]);
	});
});
