// What each state looks like in the themes, and what a screen reader has of it.
// shot-*.png are the README's: `cp bin/vscode-shots/shot-*.png extensions/vscode/media/`.

import assert from 'node:assert/strict';

import { MirrordSuite, pickerTitle, sessions, statusId, steal, turnOn } from '../driver/mirrord.ts';
import { until } from '../driver/wait.ts';
import type { Theme, Window } from '../driver/window.ts';

const suite = new MirrordSuite(() => ({ 'window.commandCenter': false, 'workbench.layoutControl.enabled': false }));
const themes: readonly Theme[] = ['light', 'high contrast', 'high contrast light', 'dark'];
let w: Window;

/** A screenshot in each theme; the window keeps the last. */
async function inThemes(name: string): Promise<void> {
	for (const theme of themes) {
		await w.theme(theme);
		await w.shot(`${name}-${theme.replaceAll(' ', '-')}`);
	}
}

/** What is wrong for who cannot see: a control without a name. */
async function nameless(): Promise<string[]> {
	const all = w.page.locator('.quick-input-widget:visible, .sidebar, .statusbar').locator(
		'[role="button"]:visible, [role="treeitem"]:visible, [role="option"]:visible, a.action-label:visible, [role="tab"]:visible');
	return all.evaluateAll(nodes => nodes
		.map(n => n as unknown as { outerHTML: string; textContent: string | null; getAttribute(name: string): string | null })
		.filter(n => !n.getAttribute('aria-label')?.trim() && !n.textContent?.trim())
		.map(n => n.outerHTML.slice(0, 200)));
}

suite.scenario('looks: the picker', async bench => {
	w = await bench.open(bench.workspace('go'));
	await w.page.setViewportSize({ width: 1120, height: 700 });
	await turnOn(w);
	await w.debugging.breakAt('main.go', 'json.NewEncoder(w).Encode(a)');
	await w.debugging.start('web');
	await w.quickPick.titled(pickerTitle);
	await steal(w);
	await w.quickPick.row('deployment/web').waitFor();
	await w.page.mouse.move(0, 0); // no hover
	await inThemes('picker');
	await w.shot('shot-picker');
	assert.deepEqual(await nameless(), []);
	await w.quickPick.choose('deployment/web');
});

suite.scenario('looks: stopped at a breakpoint', async bench => {
	await w.debugging.prints(/shop go listens/);
	await until('the port to be stolen', async () => (await sessions(bench))[0]?.ports?.includes(8080));
	await w.sideBar('mirrord'); // shows what comes from now on
	const tree = w.tree('Sessions');
	await tree.row('8080').waitFor();
	const answer = suite.shop.ask('/checkout');
	await w.debugging.paused();
	await w.statusShows(statusId, /stopped in/);
	assert.match(await w.statusItem(statusId).locator('[aria-label]').or(w.statusItem(statusId)).first().getAttribute('aria-label') ?? '', /mirrord: stopped in/);
	await w.debugging.variables('Locals');
	await inThemes('stopped');
	await w.shot('shot-paused');
	await w.sideBar('mirrord');
	await tree.row(/stopped at a breakpoint/).waitFor();
	await inThemes('stopped-sidebar');
	await w.debugging.continue();
	await answer;
});

suite.scenario('looks: the side bar with a request', async () => {
	await w.sideBar('mirrord');
	const tree = w.tree('Sessions');
	await tree.row(/GET \/checkout/).click();
	await until('the exchange', async () => /HTTP\/1\.1 200/.test(await w.editorText()));
	const files = w.tree('Target\'s Files');
	await files.expand(files.labelled('directory etc'));
	await files.labelled('directory shop').waitFor();
	assert.deepEqual(await nameless(), []);
	await w.inside.command('workbench.action.closePanel');
	await w.page.mouse.move(0, 0);
	await inThemes('sidebar');
	await w.shot('shot-sidebar');
	await w.debugging.stop();
});
